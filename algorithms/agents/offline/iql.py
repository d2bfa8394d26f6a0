"""IQL: implicit Q-learning, with a Gaussian policy weighted by advantages."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.networks import mlp
from nfkern.algorithms.agents.offline.base import OfflineRL, OfflineRLConfig, Transitions, task_presets
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise
from nfkern.algorithms.agents.policy_losses import awr_loss


@dataclass(frozen=True)
class ImplicitConfig(OfflineRLConfig):
    """Settings of the agents with an implicit value."""

    expectile: float = 0.9
    """Expectile of the critics' values over the data's actions; above 0.5 it leans towards the best actions."""
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the policy's hidden layers."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile: expected a number in (0, 1), got {self.expectile}")


@dataclass(frozen=True)
class IQLConfig(ImplicitConfig):
    """The FQL paper's settings for IQL; `alpha` differs between environments."""

    alpha: float = 10.0
    """Inverse temperature of the advantages that weight actions."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"alpha": 0}


def expectile_weight(above: torch.Tensor, expectile: float) -> torch.Tensor:
    """Return the weights of squared errors whose minimum is an expectile; `above` is target minus value."""
    return torch.where(above >= 0, expectile, 1 - expectile)


class Implicit(OfflineRL):
    """An agent whose V is an expectile of Q over the data's actions, so that Q sees no other action.

    Source: Kostrikov, Nair and Levine, "Offline RL with Implicit Q-Learning", 2022, https://arxiv.org/abs/2110.06169.
    """

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        return {"value": mlp(inputs, 1, self.config.critic_hidden, layer_norm=True)}

    def _losses(self, transitions: Transitions, noise: Noise) -> dict[str, LossAndInfo]:
        return {"value": self._value_loss(transitions)} | super()._losses(transitions, noise)

    def _value_loss(self, transitions: Transitions) -> LossAndInfo:
        """Return the loss of expectile regression of V(s) on the lower value of the target critics."""
        with torch.no_grad():
            q = self._target_q(transitions.states, transitions.actions).amin(0)
        value = self._value(transitions.states)
        above = q - value
        return (expectile_weight(above, self.config.expectile) * above.square()).mean(), {"v_mean": value.mean()}

    def _next_value(self, transitions: Transitions, noise: Noise) -> torch.Tensor:
        return self._value(transitions.next_states)

    def _value(self, states: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.networks["value"](states).squeeze(1)
        return value


_SOURCE = "FQL's code (IQL); its weight from a reprint of its paper's table"
# From the README of FQL's code for humanoidmaze, from a reprint of its paper's table for the others.
_BY_ENVIRONMENT: dict[str, dict[str, Any]] = {
    "puzzle-3x3-play": {"alpha": 10.0},
    "scene-play": {"alpha": 10.0},
    "cube-single-play": {"alpha": 1.0},
    "antmaze-large-navigate": {"alpha": 10.0},
    "humanoidmaze-medium-navigate": {"alpha": 10.0, "gamma": 0.995},
    "antsoccer-arena-navigate": {"alpha": 1.0, "gamma": 0.995},
}
_PRESETS = task_presets(IQLConfig(), _SOURCE, _BY_ENVIRONMENT)


@register("iql", summary="offline RL with an implicit value and a Gaussian", presets=_PRESETS)
class IQL(Implicit):
    """Regression on the data's actions, weighted by exp(alpha * advantage); it acts with the mean.

    Source: Kostrikov, Nair and Levine, "Offline RL with Implicit Q-Learning", 2022, https://arxiv.org/abs/2110.06169.
    """

    config_class = IQLConfig

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        policy = mlp(inputs, outputs, self.config.hidden, last_gain=0.1)
        return {**super()._build_policy(inputs, outputs), "policy": policy}

    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        states, actions = transitions.states, transitions.actions
        with torch.no_grad():
            advantage = self._q(states, actions).amin(0) - self._value(states)
        # The variance is 1, as in the source of the settings.
        return awr_loss(self.networks["policy"](states), actions, advantage, self.config.alpha)
