"""QRL: quasimetric distances, as large as single steps allow, and a policy that minimises the distance to the goal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import softplus

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.goals.base import OfflineGCRL, OfflineGCRLConfig, dataset_presets
from nfkern.algorithms.agents.goals.quasimetric import GROUP, IntervalDistance
from nfkern.algorithms.agents.networks import PositiveNumber, frozen_call, mlp
from nfkern.algorithms.agents.optimization import LossAndInfo, Tensors
from nfkern.algorithms.agents.policy_losses import ddpg_bc_loss
from nfkern.algorithms.data import GoalSampling

# The reward for larger distances fades around FAR steps, at the rate FADING per step.
FAR, FADING = 500.0, 0.01


@dataclass(frozen=True)
class QRLConfig(OfflineGCRLConfig):
    """OGBench's settings for QRL; `alpha` and `actor_random_goals` differ between datasets."""

    alpha: float = 0.003
    """Weight of imitation (nats under a unit variance) against the distance to the goal, divided by its size."""
    representation: int = 512
    """Size of the latents between which distances are measured, a multiple of 8."""
    violation: float = 0.05
    """Allowed mean square of the length of single steps beyond 1."""

    def goal_sampling(self) -> GoalSampling:
        """Draw goals from all observations; the loss makes distances to them large."""
        return GoalSampling.random()

    def batches(self) -> dict[str, Any]:
        """Add the next observations to the batches."""
        return super().batches() | {"next_observations": True}

    def _least(self) -> dict[str, float]:
        return super()._least() | {"alpha": 0, "representation": GROUP, "violation": 0}

    def __post_init__(self) -> None:
        """Check the sizes."""
        super().__post_init__()
        if self.representation % GROUP:
            raise ValueError(f"representation: expected a multiple of {GROUP}, got {self.representation}")


# OGBench names a discount, too, which QRL's goals and losses do not use.
_BY_FAMILY: dict[str, dict[str, Any]] = {
    "pointmaze": {"alpha": 0.0003},
    "antmaze": {"alpha": 0.003},
    "humanoidmaze": {"alpha": 0.001},
    "antsoccer": {"alpha": 0.003},
    "manipulation": {"alpha": 0.3},
}


@register(
    "qrl",
    summary="goal-conditioned offline RL with quasimetric distances",
    presets=dataset_presets(QRLConfig(), "QRL", _BY_FAMILY),
)
class QRL(OfflineGCRL):
    """Distances as large as possible while a step is at most 1 long, and a model of where actions lead in latent space.

    The model's loss trains the latents, too. The policy is DDPG with behavioural cloning, through the model.

    Source: Wang et al., "Optimal Goal-Reaching Reinforcement Learning via Quasimetric Learning", 2023,
    https://arxiv.org/abs/2304.01203; losses, constants and sizes are those of OGBench's code
    (https://arxiv.org/abs/2410.20092).
    """

    config_class = QRLConfig
    batch_keys = (*OfflineGCRL.batch_keys, "next_observations")

    def _build_values(self, observation_size: int, action_size: int) -> Mapping[str, nn.Module]:
        size, hidden = self.config.representation, self.config.critic_hidden
        return {
            "encoder": mlp(observation_size, size, hidden, layer_norm=True),
            "distance": IntervalDistance(),
            "dynamics": mlp(size + action_size, size, hidden, layer_norm=True),
            "multiplier": PositiveNumber(),
        }

    def _losses(self, batch: Tensors) -> dict[str, LossAndInfo]:
        observations = torch.cat([batch[key] for key in ("observations", "next_observations", "goals")])
        here, following, goals = self.networks["encoder"](observations).chunk(3)
        return {
            **self._value_losses(here, following, goals),
            "dynamics": self._dynamics_loss(here, following, batch["actions"]),
            "actor": self._actor_loss(here.detach(), batch),
        }

    def _value_losses(self, here: torch.Tensor, following: torch.Tensor, goals: torch.Tensor) -> dict[str, LossAndInfo]:
        """Return the losses of distances, which grow, and of the multiplier of a penalty on steps that are too long."""
        distance, multiplier = self.networks["distance"](here, goals), self.networks["multiplier"]()
        step = self.networks["distance"](here, following)
        violation = (step - 1).relu().square().mean()
        value = softplus(FAR - distance, beta=FADING).mean() + multiplier.detach() * violation
        dual = multiplier * (self.config.violation - violation.detach())
        details = {"distance": distance.mean(), "step": step.mean(), "violation": violation}
        return {"value": (value, details), "multiplier": (dual, {"value": multiplier})}

    def _dynamics_loss(self, here: torch.Tensor, following: torch.Tensor, actions: torch.Tensor) -> LossAndInfo:
        """Return the mean distance between the predicted and the actual latent, in both directions."""
        predicted = here + self.networks["dynamics"](torch.cat([here, actions], 1))
        distance = self.networks["distance"]
        return (distance(following, predicted) + distance(predicted, following)).mean() / 2, {}

    def _actor_loss(self, here: torch.Tensor, batch: Tensors) -> LossAndInfo:
        mean = self._policy(batch)
        with torch.no_grad():
            goals = self.networks["encoder"](batch["actor_goals"])
        predicted = here + frozen_call(self.networks["dynamics"], torch.cat([here, self._clip(mean)], 1))
        q = -frozen_call(self.networks["distance"], predicted, goals)
        return ddpg_bc_loss(mean, batch["actions"], q, self.config.alpha)
