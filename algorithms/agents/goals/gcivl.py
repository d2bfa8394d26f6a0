"""GCIVL: goal-conditioned implicit V-learning, with a Gaussian policy weighted by advantages."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.goals.base import ImplicitGCRLConfig, OfflineGCRL, dataset_presets
from nfkern.algorithms.agents.networks import EnsembleMLP
from nfkern.algorithms.agents.offline.base import CRITICS
from nfkern.algorithms.agents.offline.iql import expectile_weight
from nfkern.algorithms.agents.optimization import LossAndInfo, Tensors
from nfkern.algorithms.agents.policy_losses import awr_loss


@dataclass(frozen=True)
class GCIVLConfig(ImplicitGCRLConfig):
    """OGBench's settings for GCIVL; `actor_random_goals` differs between datasets."""

    alpha: float = 10.0
    """Inverse temperature of the advantages that weight actions."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"alpha": 0}


@register(
    "gcivl",
    summary="goal-conditioned offline RL with an implicit value and no critics",
    presets=dataset_presets(GCIVLConfig(), "GCIVL", {"humanoidmaze": {"gamma": 0.995}}),
)
class GCIVL(OfflineGCRL):
    """Two values V(s, g), regressed without critics on the reward plus their moving averages' discounted V(s', g).

    Source: Park et al., "OGBench: Benchmarking Offline Goal-Conditioned RL", 2025, https://arxiv.org/abs/2410.20092.
    """

    config_class = GCIVLConfig
    batch_keys = (*OfflineGCRL.batch_keys, "next_observations", "rewards", "masks")

    def _build_values(self, observation_size: int, action_size: int) -> Mapping[str, nn.Module]:
        return {"value": EnsembleMLP(CRITICS, 2 * observation_size, self.config.critic_hidden)}

    def _averaged(self) -> nn.Module:
        return nn.ModuleDict({"value": self.networks["value"]})

    def _losses(self, batch: Tensors) -> dict[str, LossAndInfo]:
        advantage = self._advantage(batch["observations"], batch["next_observations"], batch["actor_goals"])
        actor = awr_loss(self._policy(batch), batch["actions"], advantage, self.config.alpha)
        return {"value": self._value_loss(batch), "actor": actor}

    def _value_loss(self, batch: Tensors) -> LossAndInfo:
        """Return the loss of expectile regression; the moving averages alone decide which errors count more."""
        here = self._pair(batch["observations"], batch["goals"])
        with torch.no_grad():
            average = self._average("value")
            following = average(self._pair(batch["next_observations"], batch["goals"]))
            target = batch["rewards"] + self.config.gamma * batch["masks"] * following
            weight = expectile_weight(target.amin(0) - average(here).mean(0), self.config.expectile)
        value = self.networks["value"](here)
        return (weight * (target - value).square()).mean(1).sum(), {"v_mean": value.mean()}

    @torch.no_grad()
    def _advantage(self, observations: torch.Tensor, reached: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        """Return how much nearer to its goal the reached observation is, (batch,), by the mean of both values."""
        after, before = (self.networks["value"](self._pair(each, goals)).mean(0) for each in (reached, observations))
        nearer: torch.Tensor = after - before
        return nearer

    def _pair(self, observations: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        """Return the input of the values."""
        return torch.cat([observations, goals], 1)
