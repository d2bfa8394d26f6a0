"""Each variant of each row under pytest-benchmark, behind the same gate and with the same record beside it.

Variants run one after the other here; `nfkern bench run` lets them take turns, and its ratios are the ones to quote.
"""

import itertools
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from nfkern.bench.core.declarations import Row, Variant
from nfkern.bench.core.environment import Environment, current_environment
from nfkern.bench.core.timing import num_threads, quantiles
from nfkern.bench.runner import admit, record_of

_DEVICE = torch.device("cpu")


@pytest.fixture(scope="session")
def environment() -> Environment:
    """The environment of this process."""
    return current_environment(_DEVICE)


@pytest.fixture(scope="module")
def prepared(request: pytest.FixtureRequest) -> tuple[Row, Any]:
    """A row and its problem."""
    row = request.param
    return row, row.work.prepare(row.case, row.batch, _DEVICE)


def test_variant(prepared: tuple[Row, Any], variant: Variant, environment: Environment, benchmark: Any) -> None:
    """The variant is right; then it is timed."""
    row, problem = prepared
    benchmark.group = row.name
    with num_threads(row.threads), row.work.context():
        (candidate,) = admit(replace(row, variants=(variant,)), problem, _DEVICE)
        if candidate.skipped:
            pytest.skip(candidate.skipped)
        assert candidate.implementation is not None, candidate.error
        calls = itertools.cycle(candidate.implementation.calls(problem.inputs))
        benchmark(lambda: next(calls)())
    if benchmark.enabled:
        times = quantiles(benchmark.stats.stats.data)
        benchmark.extra_info.update(asdict(record_of(row, problem, candidate, times, _DEVICE, environment)))
