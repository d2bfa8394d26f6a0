"""CRL: contrastive goal-conditioned RL, the paper's rival in unsupervised exploration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from nfkern import Encoder
from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.networks import frozen_call
from nfkern.algorithms.agents.online.base import OnlineGCRL, OnlineGCRLConfig
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise, Tensors
from nfkern.algorithms.published import UNSUPERVISED


@dataclass(frozen=True)
class CRLConfig(OnlineGCRLConfig):
    """The paper's settings for its CRL baselines (its JAX code)."""

    critic_learning_rate: float = 3e-4
    exploration: Literal["min_max", "uniform", "oracle"] = "oracle"
    """Rule that chooses goals: the environment's own (oracle), a random goal reached before (uniform), or the least
    reachable of those (min_max)."""
    logsumexp_penalty: float = 0.1
    """Weight of the squared normaliser of each row; the penalty keeps energies from drifting."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"logsumexp_penalty": 0}


@register(
    "crl",
    summary="contrastive goal-conditioned RL in a maze",
    presets={
        f"{name}-{exploration}": Preset(CRLConfig(exploration=exploration), "paper's JAX code (CRL baselines)", name)
        for name in UNSUPERVISED
        for exploration in ("oracle", "uniform", "min_max")
    },
)
class CRL(OnlineGCRL):
    """An energy, minus the distance between the encodings of [state, action] and goal, learned by telling goals apart.

    Source: Eysenbach et al., "Contrastive Learning as Goal-Conditioned RL", 2022, https://arxiv.org/abs/2206.07568; the
    loss and sizes are those of JaxGCRL (https://arxiv.org/abs/2408.11052). The actor sees goals, not their encodings.
    """

    config_class = CRLConfig

    def _build_critic(self, inputs: int, goal_size: int) -> Mapping[str, nn.Module]:
        config = self.config
        sizes = {"encoder": inputs, "goal_encoder": goal_size}
        return {
            name: Encoder(size, config.representation, width=config.width, layers=config.layers)
            for name, size in sizes.items()
        }

    def _critic_group(self) -> tuple[str, ...]:
        return ("encoder", "goal_encoder")

    def _critic_loss(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        encoded = self.networks["encoder"](torch.cat([batch["observations"], batch["actions"]], 1))
        energies = -torch.cdist(encoded, self.networks["goal_encoder"](batch["goals"]))
        own = energies.diagonal()
        # Each column classifies which of the batch's transitions led to its goal.
        contrastive = (energies.logsumexp(0) - own).mean()
        penalty = energies.logsumexp(1).square().mean()
        loss = contrastive + self.config.logsumexp_penalty * penalty
        correct = (energies.argmax(1) == torch.arange(len(own), device=own.device)).float().mean()
        return loss, {"own_energy": own.mean(), "accuracy": correct}

    def _value(
        self, states: torch.Tensor, actions: torch.Tensor, goals: torch.Tensor, *, frozen: bool = False
    ) -> torch.Tensor:
        encoded = frozen_call(self.networks["encoder"], torch.cat([states, actions], 1), frozen=frozen)
        goal = frozen_call(self.networks["goal_encoder"], goals, frozen=frozen)
        energy: torch.Tensor = -torch.linalg.vector_norm(encoded - goal, dim=1)
        return energy
