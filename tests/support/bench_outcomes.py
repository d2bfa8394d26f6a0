"""One variant measured on a row of milliseconds, as it is or altered."""

from dataclasses import replace

import pytest
import torch

from nfkern.bench.cases import CASES
from nfkern.bench.declarations import Row
from nfkern.bench.environment import current_environment
from nfkern.bench.registry import WORKS
from nfkern.bench.runner import measure
from nfkern.bench.timing import SMOKE

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
