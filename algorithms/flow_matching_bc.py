"""Flow-matching behavioural cloning: a velocity field, integrated by Euler steps."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nfkern.algorithms.behavioral_cloning import BehavioralCloning, BehavioralCloningConfig
from nfkern.algorithms.networks import mlp
from nfkern.algorithms.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class FlowMatchingBCConfig(BehavioralCloningConfig):
    """FQL's settings for its behavioural-cloning flow."""

    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the velocity field's hidden layers."""
    flow_steps: int = 10
    """Euler steps from noise to an action."""

    def _least(self) -> dict[str, float]:
        return {"flow_steps": 1}


class FlowMatchingBC(BehavioralCloning):
    """Regression of the straight path's velocity, x_1 - x_0 at x_t = (1 - t) x_0 + t x_1.

    Source: Park, Li and Levine, "Flow Q-Learning", 2025, https://arxiv.org/abs/2502.02538.
    """

    name = "flow_matching_bc"
    config_class = FlowMatchingBCConfig

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        return nn.ModuleDict({"velocity": mlp(inputs + outputs + 1, outputs, self.config.hidden)})

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return torch.randn(rows, width, **options), torch.rand(rows, 1, **options)

    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        start, time = noise
        point = (1 - time) * start + time * actions
        velocity = self.networks["velocity"](torch.cat([conditioning, point, time], 1))
        loss = (velocity - (actions - start)).square().mean()
        return loss, {}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        point = self._noise(len(conditioning), generator)
        steps = self.config.flow_steps
        for step in range(steps):
            time = torch.full_like(point[:, :1], step / steps)
            point = point + networks["velocity"](torch.cat([conditioning, point, time], 1)) / steps
        return point
