"""Scores of samples and log-densities at contexts that no training has seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from nfkern.bench.studies.quality.densities import Density
from nfkern.bench.studies.quality.metrics import mmd, mode_shares, sliced_wasserstein
from nfkern.bench.studies.quality.records import Scores, Settings

_SEED = 30_000


@dataclass(frozen=True)
class HeldOut:
    """What every policy is held against.

    Attributes:
        contexts: (contexts, C).
        samples: of the density, (contexts, samples, D).
        pair_contexts: (pairs, C), other ones.
        pairs: one sample of the density for each, (pairs, D).
    """

    contexts: torch.Tensor
    samples: torch.Tensor
    pair_contexts: torch.Tensor
    pairs: torch.Tensor

    @staticmethod
    @lru_cache
    def of(density: Density, settings: Settings) -> "HeldOut":
        """The same at every call."""
        generator = torch.Generator().manual_seed(_SEED)
        contexts = density.contexts(settings.contexts, generator)
        samples = density.sample(contexts.repeat_interleave(settings.samples, 0), generator)
        pair_contexts = density.contexts(settings.pairs, generator)
        pairs = density.sample(pair_contexts, generator)
        return HeldOut(contexts, samples.unflatten(0, (settings.contexts, -1)), pair_contexts, pairs)


def score(
    density: Density,
    held_out: HeldOut,
    sample: Callable[[torch.Tensor], torch.Tensor],
    log_prob: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> Scores:
    """Scores of a policy, or of the density itself: as many samples per context as `held_out` has.

    Args:
        density: the true one.
        held_out: for it.
        sample: from contexts (n, C) to actions (n, D), float64.
        log_prob: from actions and contexts to log-densities (n,), where there are any.

    Raises:
        ValueError: a sample or a log-density is not finite.
    """
    found = []
    for context, expected in zip(held_out.contexts, held_out.samples, strict=True):
        actions = sample(context.expand(len(expected), -1))
        if not actions.isfinite().all():
            raise ValueError("actions: expected finite numbers, got NaN or infinity")
        shares = mode_shares(density, actions, context)
        found.append((sliced_wasserstein(actions, expected), mmd(actions, expected), shares.covered, shares.off))
    nll = None if log_prob is None else -float(log_prob(held_out.pairs, held_out.pair_contexts).mean())
    if nll is not None and not math.isfinite(nll):
        raise ValueError(f"log-density: expected a finite mean, got {-nll}")
    distance, discrepancy, covered, off = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    return Scores(distance, discrepancy, covered, off, nll)
