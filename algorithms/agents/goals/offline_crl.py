"""Contrastive RL from a dataset. The agent `crl` learns online."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.goals.base import OfflineGCRL, OfflineGCRLConfig, dataset_presets
from nfkern.algorithms.agents.networks import EnsembleMLP
from nfkern.algorithms.agents.offline.base import CRITICS
from nfkern.algorithms.agents.optimization import LossAndInfo, Tensors
from nfkern.algorithms.agents.policy_losses import ddpg_bc_loss
from nfkern.algorithms.data import GoalSampling


@dataclass(frozen=True)
class OfflineCRLConfig(OfflineGCRLConfig):
    """OGBench's settings for CRL; `alpha` and `actor_random_goals` differ between datasets."""

    alpha: float = 0.1
    """Weight of imitation (nats under a unit variance) against the critics' value, divided by its size."""
    gamma: float = 0.99
    """The critics' goals lie Geometric(1 - gamma) >= 1 steps ahead, clipped to the trajectory's end."""
    representation: int = 512
    """Size of the encodings of [state, action] and of goals."""

    def goal_sampling(self) -> GoalSampling:
        """Return how the critics' goals are drawn."""
        return GoalSampling.geometric(self.gamma)

    def _least(self) -> dict[str, float]:
        return super()._least() | {"alpha": 0, "representation": 1}


_BY_FAMILY: dict[str, dict[str, Any]] = {
    "pointmaze": {"alpha": 0.03},
    "antmaze": {"alpha": 0.1},
    "humanoidmaze": {"alpha": 0.1, "gamma": 0.995},
    "antsoccer": {"alpha": 0.3},
    "manipulation": {"alpha": 3.0},
}


@register(
    "offline_crl",
    summary="goal-conditioned offline RL with contrastive critics",
    presets=dataset_presets(OfflineCRLConfig(), "CRL", _BY_FAMILY),
)
class OfflineCRL(OfflineGCRL):
    """Critics that tell the goal that a row reached from those of other rows, by inner products of encodings.

    The policy is DDPG with behavioural cloning.

    Source: Eysenbach et al., "Contrastive Learning as Goal-Conditioned RL", 2022, https://arxiv.org/abs/2206.07568; the
    loss and sizes are those of OGBench's code (https://arxiv.org/abs/2410.20092).
    """

    config_class = OfflineCRLConfig

    def _build_values(self, observation_size: int, action_size: int) -> Mapping[str, nn.Module]:
        sizes = {"encoder": observation_size + action_size, "goal_encoder": observation_size}
        config = self.config
        return {
            name: EnsembleMLP(CRITICS, size, config.critic_hidden, config.representation)
            for name, size in sizes.items()
        }

    def _losses(self, batch: Tensors) -> dict[str, LossAndInfo]:
        return {"critic": self._critic_loss(batch), "actor": self._actor_loss(batch)}

    def _critic_loss(self, batch: Tensors) -> LossAndInfo:
        """Return the loss of classifying whether a row reached a goal, for all pairs of the batch and all critics."""
        encoded = self.networks["encoder"](torch.cat([batch["observations"], batch["actions"]], 1))
        goals = self.networks["goal_encoder"](batch["goals"])
        logits = encoded @ goals.mT / math.sqrt(self.config.representation)
        own = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        loss = binary_cross_entropy_with_logits(logits, own.expand_as(logits))
        # No accuracy: two rows may have the same goal, and rounding would decide which one is right.
        return loss, {"own_logit": logits.diagonal(dim1=1, dim2=2).mean(), "mean_logit": logits.mean()}

    def _actor_loss(self, batch: Tensors) -> LossAndInfo:
        mean = self._policy(batch)
        encoded = self.networks["encoder"](torch.cat([batch["observations"], self._clip(mean)], 1), frozen=True)
        with torch.no_grad():
            goals = self.networks["goal_encoder"](batch["actor_goals"])
        q = (encoded * goals).sum(-1).amin(0) / math.sqrt(self.config.representation)
        return ddpg_bc_loss(mean, batch["actions"], q, self.config.alpha)
