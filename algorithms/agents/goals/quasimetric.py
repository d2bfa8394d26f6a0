"""Interval quasimetric embeddings: learned distances that obey the triangle inequality and depend on the direction."""

import torch
from torch import nn

# Numbers of a latent whose intervals are united, as in OGBench.
GROUP = 8


class IntervalDistance(nn.Module):
    """Distance from one latent to another: the mean and the maximum of its groups' distances, in learned shares.

    A group's distance from x to y is the length of the union of the intervals [x_i, max(x_i, y_i)].

    Source: Wang and Isola, "Improved Representation of Asymmetrical Distances with Interval Quasimetric Embeddings",
    2022, https://arxiv.org/abs/2211.15120.
    """

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the distance (*batch,), at least 0, from x to y, both (*batch, a multiple of GROUP)."""
        groups = _union_length(x.unflatten(-1, (-1, GROUP)), y.unflatten(-1, (-1, GROUP)))
        share = self.share.sigmoid()
        return share * groups.mean(-1) + (1 - share) * groups.amax(-1)


def _union_length(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the length (*batch,) of the union of the intervals [x, max(x, y)], x and y (*batch, intervals)."""
    # From left to right, each interval adds its part beyond all intervals that begin before it.
    left, order = x.sort(-1)
    right = torch.maximum(left, y.gather(-1, order))
    covered = right.cummax(-1).values
    first = right[..., 0] - left[..., 0]
    return first + (right[..., 1:] - torch.maximum(left[..., 1:], covered[..., :-1])).relu().sum(-1)
