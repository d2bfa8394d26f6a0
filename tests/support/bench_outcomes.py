"""One variant measured on a row of milliseconds, as it is or altered."""

from dataclasses import replace

import pytest
import torch

from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Row
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.registry import WORKS
from nfkern.bench.runner import measure

CPU = torch.device("cpu")


def tiny(work):
    return CASES["causal_tiny" if work.startswith("causal") else "tiny"]


def outcome(variant, work, case=None, batch=4):
    for module in variant.requires:
        pytest.importorskip(module)
    (record,) = measure(
        Row(WORKS[work], CASES[case] if case else tiny(work), batch, 1, (variant,)),
        CPU,
        current_environment(CPU),
        SMOKE,
    )
    return record


def altered(variant, work, change):
    """The variant with `change` made to what its builder returns."""
    builder = variant.builders[work]
    return replace(variant, builders={work: lambda problem: change(builder(problem))})
