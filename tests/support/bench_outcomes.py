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
DATA = ("data_sampling", "goal_conditioned_run", "offline_rl_run")
TINY = {"candidate_log_prob": "tiny_plane", **dict.fromkeys(DATA, "synthetic_tiny")}


def tiny(work):
    return CASES[TINY.get(work, "causal_tiny" if work.startswith("causal") else "tiny")]


def outcome(variant, work, batch=4, device=CPU):
    for module in variant.requires:
        pytest.importorskip(module)
    row = Row(WORKS[work], tiny(work), batch, 1, (variant,))
    (record,) = measure(row, device, current_environment(device), SMOKE)
    return record


def altered(variant, work, change):
    """The variant with `change` made to what its builder returns."""
    builder = variant.builders[work]
    return replace(variant, builders={work: lambda problem: change(builder(problem))})
