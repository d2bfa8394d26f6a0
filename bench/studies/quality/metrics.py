"""Distances between two samples, shares of modes, and scores at contexts that no training has seen."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import nn

from nfkern.bench.studies.quality.densities import Density
from nfkern.bench.studies.quality.records import Scores, Settings

_SEED = 30_000

DIRECTIONS = 64
"""Lines that samples are projected on."""

BANDWIDTHS = (0.05, 0.1, 0.2, 0.5)
"""Widths of the kernels, in units of actions: from the width of a mode to the distance between modes."""


def directions(size: int, count: int = DIRECTIONS) -> torch.Tensor:
    """Unit vectors (count, size): equal angles in the plane, fixed random ones in more dimensions."""
    if size == 2:
        angles = torch.arange(count, dtype=torch.float64) * math.pi / count
        return torch.stack([angles.cos(), angles.sin()], 1)
    random = torch.randn(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return nn.functional.normalize(random)


def sliced_wasserstein(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean over lines of the 1-Wasserstein distance of projections, of samples (n, D) and (n, D), in their units.

    On a line it is the mean distance between the sorted samples, which takes all lines at once.

    References:
        Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015,
        https://doi.org/10.1007/s10851-014-0506-3.
    """
    _check(x, y)
    lines = directions(x.shape[1])
    return float(((x @ lines.T).sort(0).values - (y @ lines.T).sort(0).values).abs().mean())


def mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    r"""Maximum mean discrepancy of samples (n, D) and (n, D).

    It is the root of :math:`\overline{k(x, x')} - 2 \overline{k(x, y)} + \overline{k(y, y')}`, where the kernel is the
    mean of Gaussians :math:`\exp(-|x - y|^2 / 2 h^2)` over the `BANDWIDTHS` h. All pairs count, also of a point with
    itself, so that it is never negative, nor zero for two samples of one density.

    References:
        Gretton et al., "A Kernel Two-Sample Test", 2012, https://jmlr.org/papers/v13/gretton12a.html.
    """
    _check(x, y)
    squared = _kernel_mean(x, x) - 2 * _kernel_mean(x, y) + _kernel_mean(y, y)
    return math.sqrt(max(0.0, squared))


LEAST_DUE = 10
"""A mode that is due fewer samples than this is too rare to be judged: chance alone may leave it empty."""


def mode_shares(density: Density, x: torch.Tensor, context: torch.Tensor) -> tuple[float, float]:
    """Return the share of modes that samples (n, D) for a context (C,) cover, and of samples that are on no mode.

    A mode is covered by half of its due; judged are those due at least `LEAST_DUE` samples.

    Raises:
        ValueError: no mode is due so many.
    """
    contexts = context.expand(len(x), -1)
    found = density.mode_of(x, contexts)
    counts = torch.bincount(found[found >= 0], minlength=density.modes)
    due = density.log_weights(context[None])[0].exp() * len(x)
    judged = due >= LEAST_DUE
    if not judged.any():
        raise ValueError(f"x: expected enough samples for some mode to be due {LEAST_DUE} of them, got {len(x)}")
    covered = (counts >= 0.5 * due)[judged].double().mean()
    return float(covered), float((found < 0).double().mean())


class HeldOut(NamedTuple):
    """Samples that every policy is held against."""

    contexts: torch.Tensor
    """(contexts, C)"""
    samples: torch.Tensor
    """of the density, (contexts, samples, D)"""
    pair_contexts: torch.Tensor
    """(pairs, C), other ones"""
    pairs: torch.Tensor
    """one sample of the density for each, (pairs, D)"""


@lru_cache
def held_out(density: Density, settings: Settings) -> HeldOut:
    """Return the same at every call."""
    generator = torch.Generator().manual_seed(_SEED)
    contexts = density.contexts(settings.contexts, generator)
    samples = density.sample(contexts.repeat_interleave(settings.samples, 0), generator)
    pair_contexts = density.contexts(settings.pairs, generator)
    pairs = density.sample(pair_contexts, generator)
    return HeldOut(contexts, samples.unflatten(0, (settings.contexts, -1)), pair_contexts, pairs)


def score(
    density: Density,
    known: HeldOut,
    sample: Callable[[torch.Tensor], torch.Tensor],
    log_prob: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> Scores:
    """Score a policy, or the density itself, by as many samples per context as are known.

    Args:
        density: the true one.
        known: of it.
        sample: from contexts (n, C) to actions (n, D), float64.
        log_prob: from actions and contexts to log-densities (n,), where there are any.

    Raises:
        ValueError: a sample or a log-density is not finite.
    """
    found = []
    for context, expected in zip(known.contexts, known.samples, strict=True):
        actions = sample(context.expand(len(expected), -1))
        if not actions.isfinite().all():
            raise ValueError("actions: expected finite numbers, got NaN or infinity")
        distances = sliced_wasserstein(actions, expected), mmd(actions, expected)
        found.append((*distances, *mode_shares(density, actions, context)))
    nll = None if log_prob is None else -float(log_prob(known.pairs, known.pair_contexts).mean())
    if nll is not None and not math.isfinite(nll):
        raise ValueError(f"log-density: expected a finite mean, got {-nll}")
    distance, discrepancy, covered, off = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    return Scores(distance, discrepancy, covered, off, nll)


def _kernel_mean(x: torch.Tensor, y: torch.Tensor) -> float:
    squared = torch.cdist(x, y).square_()
    return sum(float((squared * (-0.5 / width**2)).exp_().mean()) for width in BANDWIDTHS) / len(BANDWIDTHS)


def _check(x: torch.Tensor, y: torch.Tensor) -> None:
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"x and y: expected the same shape (n, D), got {tuple(x.shape)} and {tuple(y.shape)}")
