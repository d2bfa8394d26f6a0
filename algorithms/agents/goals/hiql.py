"""HIQL: hierarchical implicit Q-learning; one policy chooses subgoals, another reaches them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.goals.base import dataset_presets
from nfkern.algorithms.agents.goals.gcivl import GCIVL, GCIVLConfig
from nfkern.algorithms.agents.networks import EnsembleMLP, mlp
from nfkern.algorithms.agents.offline.base import CRITICS
from nfkern.algorithms.agents.optimization import LossAndInfo, Tensors
from nfkern.algorithms.agents.policy_losses import awr_loss


@dataclass(frozen=True)
class HIQLConfig(GCIVLConfig):
    """OGBench's settings for HIQL; `subgoal_steps` and `actor_random_goals` differ between datasets."""

    expectile: float = 0.7
    alpha: float = 3.0
    high_alpha: float = 3.0
    """Inverse temperature of the advantages that weight subgoals."""
    subgoal_steps: int = 25
    """Steps from an observation to its subgoal, which lies neither beyond the goal nor beyond the trajectory's end."""
    representation: int = 10
    """Size of the representation of a subgoal or goal, which policies and values see."""

    def batches(self) -> dict[str, Any]:
        """Add the observations `subgoal_steps` ahead to the batches."""
        return super().batches() | {"subgoal_steps": self.subgoal_steps}

    def _least(self) -> dict[str, float]:
        return super()._least() | {"high_alpha": 0, "subgoal_steps": 1, "representation": 1}


_BY_FAMILY: dict[str, dict[str, Any]] = {
    "humanoidmaze": {"gamma": 0.995, "subgoal_steps": 100},
    "manipulation": {"subgoal_steps": 10},
}


@register(
    "hiql",
    summary="goal-conditioned offline RL with subgoals",
    presets=dataset_presets(HIQLConfig(), "HIQL", _BY_FAMILY),
)
class HIQL(GCIVL):
    """GCIVL's values on representations of goals; one policy predicts those of subgoals, another acts on them.

    A representation depends on the observation, too, and has a fixed length. Only the values' loss trains it. The
    values' moving averages use the current representations.

    Source: Park et al., "HIQL: Offline Goal-Conditioned RL with Latent States as Actions", 2023,
    https://arxiv.org/abs/2307.11949; losses and sizes are those of OGBench's code (https://arxiv.org/abs/2410.20092).
    """

    config_class = HIQLConfig
    batch_keys = (*GCIVL.batch_keys, "subgoals", "actor_subgoals")

    def _policy_inputs(self) -> int:
        """Return the size of an observation and a subgoal's representation."""
        return int(self.sizes["observation_size"] + self.config.representation)

    def _build_values(self, observation_size: int, action_size: int) -> Mapping[str, nn.Module]:
        size, hidden = self.config.representation, self.config.critic_hidden
        return {
            "encoder": mlp(2 * observation_size, size, hidden, layer_norm=True),
            "value": EnsembleMLP(CRITICS, observation_size + size, hidden),
            "high_policy": mlp(2 * observation_size, size, self.config.hidden, last_gain=0.1),
        }

    def _losses(self, batch: Tensors) -> dict[str, LossAndInfo]:
        return {
            "value": self._value_loss(batch),
            "actor": self._actor_loss(batch),
            "high_actor": self._high_actor_loss(batch),
        }

    def _actor_loss(self, batch: Tensors) -> LossAndInfo:
        """Return the loss on the data's actions, weighted by how much nearer to the subgoal they lead."""
        here, subgoals = batch["observations"], batch["subgoals"]
        advantage = self._advantage(here, batch["next_observations"], subgoals)
        with torch.no_grad():
            seen = self._pair(here, subgoals)
        return awr_loss(self.networks["policy"](seen), batch["actions"], advantage, self.config.alpha)

    def _high_actor_loss(self, batch: Tensors) -> LossAndInfo:
        """Return the loss on the data's subgoals, weighted by how much nearer to the goal they are."""
        here, subgoals, goals = batch["observations"], batch["actor_subgoals"], batch["actor_goals"]
        advantage = self._advantage(here, subgoals, goals)
        mean = self.networks["high_policy"](torch.cat([here, goals], 1))
        with torch.no_grad():
            representation = self._represent(here, subgoals)
        return awr_loss(mean, representation, advantage, self.config.high_alpha)

    def _pair(self, observations: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        return torch.cat([observations, self._represent(observations, goals)], 1)

    def _represent(self, observations: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        """Return the goals' representation (batch, representation), seen from the observations."""
        return self._of_length(self.networks["encoder"](torch.cat([observations, goals], 1)))

    def _of_length(self, vectors: torch.Tensor) -> torch.Tensor:
        """Scale vectors to the length of a vector of ones."""
        return normalize(vectors, dim=1) * math.sqrt(self.config.representation)

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Return the low policy's mean for the high policy's mean subgoal."""
        observations = conditioning[:, : self.sizes["observation_size"]]
        subgoals = self._of_length(networks["high_policy"](conditioning))
        actions: torch.Tensor = networks["policy"](torch.cat([observations, subgoals], 1))
        return actions
