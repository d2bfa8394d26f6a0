"""Distances between two samples, and what share of a density's modes a sample has found."""

import math
from dataclasses import dataclass

import torch

from nfkern.bench.studies.quality.densities import Density

DIRECTIONS = 64
"""Lines that samples are projected on."""

BANDWIDTHS = (0.05, 0.1, 0.2, 0.5)
"""Of the kernels, in units of actions, which span [-1, 1]: from the width of a mode to the distance between modes."""


def directions(size: int, count: int = DIRECTIONS) -> torch.Tensor:
    """Unit vectors (count, size): equal angles in the plane, fixed random ones in more dimensions."""
    if size == 2:
        angles = torch.arange(count, dtype=torch.float64) * math.pi / count
        return torch.stack([angles.cos(), angles.sin()], 1)
    random = torch.randn(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lines: torch.Tensor = random / random.norm(dim=1, keepdim=True)
    return lines


def sliced_wasserstein(x: torch.Tensor, y: torch.Tensor) -> float:
    r"""Mean over lines of the 1-Wasserstein distance between projections, in units of actions.

    On a line it is the mean distance between the sorted samples, :math:`\frac 1n \sum_i |x_{(i)} - y_{(i)}|`.

    Args:
        x: (n, D).
        y: (n, D).

    Raises:
        ValueError: the shapes differ.

    References:
        Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015,
        https://doi.org/10.1007/s10851-014-0506-3.
    """
    _check(x, y)
    lines = directions(x.shape[1])
    return float(((x @ lines.T).sort(0).values - (y @ lines.T).sort(0).values).abs().mean())


def mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    r"""Maximum mean discrepancy: the root of :math:`\overline{k(x, x')} - 2 \overline{k(x, y)} + \overline{k(y, y')}`.

    The kernel is the mean of Gaussians :math:`\exp(-|x - y|^2 / 2 h^2)` over the `BANDWIDTHS` h. All pairs count, also
    of a point with itself, so that it is never negative, nor zero for two samples of one density.

    Args:
        x: (n, D).
        y: (n, D).

    Raises:
        ValueError: the shapes differ.

    References:
        Gretton et al., "A Kernel Two-Sample Test", 2012, https://jmlr.org/papers/v13/gretton12a.html.
    """
    _check(x, y)
    squared = _kernel_mean(x, x) - 2 * _kernel_mean(x, y) + _kernel_mean(y, y)
    return math.sqrt(max(0.0, squared))


@dataclass(frozen=True)
class ModeShares:
    """What a sample found of a density's modes.

    Attributes:
        covered: share of the modes, of those due at least `LEAST_DUE` samples, that got at least half of their due.
        off: share of the samples that are on no mode.
    """

    covered: float
    off: float


LEAST_DUE = 10
"""A mode that is due fewer samples than this is too rare to be judged: chance alone may leave it empty."""


def mode_shares(density: Density, x: torch.Tensor, context: torch.Tensor) -> ModeShares:
    """Count samples on modes.

    Args:
        density: with modes.
        x: samples (n, D) for one context.
        context: (C,).

    Raises:
        ValueError: no mode is due `LEAST_DUE` samples.
    """
    contexts = context.expand(len(x), -1)
    found = density.mode_of(x, contexts)
    counts = torch.bincount(found[found >= 0], minlength=density.modes)
    due = density.log_weights(context[None])[0].exp() * len(x)
    judged = due >= LEAST_DUE
    if not judged.any():
        raise ValueError(f"x: expected enough samples for some mode to be due {LEAST_DUE} of them, got {len(x)}")
    covered = (counts >= 0.5 * due)[judged].double().mean()
    return ModeShares(float(covered), float((found < 0).double().mean()))


def _kernel_mean(x: torch.Tensor, y: torch.Tensor) -> float:
    squared = torch.cdist(x, y).square_()
    return sum(float((squared * (-0.5 / width**2)).exp_().mean()) for width in BANDWIDTHS) / len(BANDWIDTHS)


def _check(x: torch.Tensor, y: torch.Tensor) -> None:
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"x and y: expected the same shape (n, D), got {tuple(x.shape)} and {tuple(y.shape)}")
