"""IFQL: implicit Q-learning with a flow-matching policy, and the best of many samples when acting."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.flow_matching import draw_paths, flow_matching_loss, integrate, velocity_field
from nfkern.algorithms.agents.offline.base import Transitions, task_presets
from nfkern.algorithms.agents.offline.iql import Implicit, ImplicitConfig
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class IFQLConfig(ImplicitConfig):
    """The FQL paper's settings for IFQL."""

    flow_steps: int = 10
    """Euler steps from noise to an action."""
    candidates: int = 32
    """Number of actions sampled for a decision; the critics choose one."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"flow_steps": 1, "candidates": 1}


_SOURCE = "FQL's code (IFQL); candidates from a reprint of its paper's table, the discount of FQL"
# From the README of FQL's code for humanoidmaze, from a reprint of its paper's table for antsoccer.
_BY_ENVIRONMENT: dict[str, dict[str, Any]] = {
    "humanoidmaze-medium-navigate": {"gamma": 0.995},
    "antsoccer-arena-navigate": {"gamma": 0.995, "candidates": 64},
}
_PRESETS = task_presets(IFQLConfig(), _SOURCE, _BY_ENVIRONMENT)


@register(
    "ifql",
    summary="offline RL with an implicit value and the best of many flow-matching samples",
    presets=_PRESETS,
)
class IFQL(Implicit):
    """A flow-matching policy of the data that acts with the sample of the highest value.

    The flow's counterpart of IDQL (https://arxiv.org/abs/2304.10573), as in Park, Li and Levine, "Flow Q-Learning",
    2025, https://arxiv.org/abs/2502.02538.
    """

    config_class = IFQLConfig

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        velocity = velocity_field(inputs, outputs, self.config.hidden)
        return {**super()._build_policy(inputs, outputs), "velocity": velocity}

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return draw_paths(rows, width, **options)

    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        return flow_matching_loss(self.networks["velocity"], transitions.actions, transitions.states, *noise), {}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        candidates = self.config.candidates
        states = conditioning.repeat_interleave(candidates, 0)
        start = self._noise(states.shape[0], generator)
        actions = self._clip(integrate(networks["velocity"], start, states, self.config.flow_steps))
        values = self._q(states, actions).amin(0).unflatten(0, (-1, candidates))
        best = values.argmax(1, keepdim=True).unsqueeze(2)
        chosen: torch.Tensor = actions.unflatten(0, (-1, candidates)).take_along_dim(best, 1).squeeze(1)
        return chosen
