"""FQL: flow Q-learning, with a one-step policy distilled from a flow-matching policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.flow_matching import draw_paths, flow_matching_loss, integrate, velocity_field
from nfkern.algorithms.agents.networks import mlp
from nfkern.algorithms.agents.offline.base import OfflineRL, PolicyValueConfig, Transitions, task_presets
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class FQLConfig(PolicyValueConfig):
    """FQL's settings; `alpha` differs between environments."""

    alpha: float = 10.0
    """Weight of distillation against the critics' value."""
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the hidden layers of the velocity field and of the one-step policy."""
    flow_steps: int = 10
    """Euler steps of the distilled policy."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"alpha": 0, "flow_steps": 1}


# From the README of FQL's code.
_BY_ENVIRONMENT: dict[str, dict[str, Any]] = {
    "puzzle-3x3-play": {"alpha": 1000.0},
    "scene-play": {"alpha": 300.0},
    "cube-single-play": {"alpha": 300.0},
    "antmaze-large-navigate": {"alpha": 10.0, "q_aggregation": "min"},
    "humanoidmaze-medium-navigate": {"alpha": 30.0, "gamma": 0.995},
    "antsoccer-arena-navigate": {"alpha": 10.0, "gamma": 0.995},
}
_PRESETS = task_presets(FQLConfig(), "FQL's code, and its README", _BY_ENVIRONMENT)


@register("fql", summary="offline RL with a one-step policy distilled from flow matching", presets=_PRESETS)
class FQL(OfflineRL):
    """A one-step policy that maximises the critics' value and stays near a flow-matching policy of the data.

    Source: Park, Li and Levine, "Flow Q-Learning", 2025, https://arxiv.org/abs/2502.02538.
    """

    config_class = FQLConfig

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        hidden = self.config.hidden
        return {"velocity": velocity_field(inputs, outputs, hidden), "policy": mlp(inputs + outputs, outputs, hidden)}

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        following, distilled = torch.randn(rows, width, **options), torch.randn(rows, width, **options)
        return following, distilled, *draw_paths(rows, width, **options)

    def _next_value(self, transitions: Transitions, noise: Noise) -> torch.Tensor:
        actions = self._clip(_one_step(self.networks, transitions.next_states, noise[0]))
        return self._target_value(transitions.next_states, actions)

    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        states, (_, distilled, *path) = transitions.states, noise
        imitation = flow_matching_loss(self.networks["velocity"], transitions.actions, states, *path)
        with torch.no_grad():
            steps = self.config.flow_steps
            many_steps = self._clip(integrate(self.networks["velocity"], distilled, states, steps))
        actions = _one_step(self.networks, states, distilled)
        distillation = (actions - many_steps).square().mean()
        q = self._q(states, self._clip(actions), frozen=True).mean()
        loss = imitation + self.config.alpha * distillation - q
        return loss, {"q": q, "imitation": imitation, "distillation": distillation}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        return _one_step(networks, conditioning, self._noise(conditioning.shape[0], generator))


def _one_step(networks: nn.ModuleDict, states: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    actions: torch.Tensor = networks["policy"](torch.cat([states, noise], 1))
    return actions
