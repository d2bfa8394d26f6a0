"""Flow-matching behavioural cloning: a velocity field, integrated by Euler steps."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.flow_matching import draw_paths, flow_matching_loss, integrate, velocity_field
from nfkern.algorithms.agents.imitation.base import BehavioralCloning, BehavioralCloningConfig
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class FlowMatchingBCConfig(BehavioralCloningConfig):
    """FQL's settings for its behavioural-cloning flow."""

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the velocity field's hidden layers."""
    flow_steps: int = 10
    """Euler steps from noise to an action."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"flow_steps": 1}


@register(
    "flow_matching_bc",
    summary="behavioural cloning with flow matching",
    presets={"fql": Preset(FlowMatchingBCConfig(observation_normalization="none"), "FQL's BC flow")},
)
class FlowMatchingBC(BehavioralCloning):
    """Flow matching on actions.

    Source: Park, Li and Levine, "Flow Q-Learning", 2025, https://arxiv.org/abs/2502.02538.
    """

    config_class = FlowMatchingBCConfig

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        return nn.ModuleDict({"velocity": velocity_field(inputs, outputs, self.config.hidden)})

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return draw_paths(rows, width, **options)

    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        return flow_matching_loss(self.networks["velocity"], actions, conditioning, *noise), {}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        start = self._noise(conditioning.shape[0], generator)
        return integrate(networks["velocity"], start, conditioning, self.config.flow_steps)
