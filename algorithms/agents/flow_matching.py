"""Flow matching: a velocity field between noise and data, learned along straight paths and followed by Euler steps."""

from typing import Any

import torch
from torch import nn

from nfkern.algorithms.agents.networks import mlp
from nfkern.algorithms.agents.optimization import Noise


def velocity_field(conditioning: int, features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Return a network from (conditioning, point, time) to a velocity, for the functions below."""
    return mlp(conditioning + features + 1, features, hidden)


def draw_paths(rows: int, features: int, **options: Any) -> Noise:
    """Return random numbers for `flow_matching_loss`: starts (rows, features) and times (rows, 1)."""
    return torch.randn(rows, features, **options), torch.rand(rows, 1, **options)


def flow_matching_loss(
    velocity: nn.Module, data: torch.Tensor, conditioning: torch.Tensor, start: torch.Tensor, time: torch.Tensor
) -> torch.Tensor:
    """Return the mean squared error of the straight path's velocity, x_1 - x_0 at x_t = (1 - t) x_0 + t x_1.

    Source: Lipman et al., "Flow Matching for Generative Modeling", 2023, https://arxiv.org/abs/2210.02747.

    Args:
        velocity: a `velocity_field`.
        data: x_1, (batch, features).
        conditioning: (batch, conditioning).
        start: x_0, (batch, features).
        time: t, (batch, 1), in [0, 1].
    """
    point = (1 - time) * start + time * data
    predicted: torch.Tensor = velocity(torch.cat([conditioning, point, time], 1))
    return (predicted - (data - start)).square().mean()


def integrate(velocity: nn.Module, start: torch.Tensor, conditioning: torch.Tensor, steps: int) -> torch.Tensor:
    """Follow a velocity field from noise (batch, features) at time 0 to time 1, in equal Euler steps."""
    point = start
    for step in range(steps):
        time = torch.full_like(point[:, :1], step / steps)
        point = point + velocity(torch.cat([conditioning, point, time], 1)) / steps
    return point
