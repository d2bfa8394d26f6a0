"""Benchmark records to compare, store and report."""

from dataclasses import replace

from nfkern.bench.core.environment import Environment
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Quantiles

ENVIRONMENT = Environment(
    "cpu", "Example CPU <1>", 2, {"nfkern": "0.1.0", "torch": "2.13.0"}, "abc", {"op": "reference"}
)


def spread(median: float, noise: float = 0.02) -> Quantiles:
    """A band of relative width `noise` to either side of the median."""
    return Quantiles(median, median * (1 - noise), median * (1 + noise), median * (1 + 3 * noise), 100)


def record(variant: str = "nfkern", quantiles: Quantiles | None = None, **changes: object) -> Record:
    """A record of one row; a median of 1 ms unless told."""
    base = Record(
        work="inverse",
        case="ogbench",
        batch=256,
        variant=variant,
        mode="inference",
        threads=1,
        precision="fp32",
        parameters=1_017_006,
        first_call_s=0.5,
        quantiles=quantiles or spread(1e-3),
        error=None,
        skipped=None,
        clock="3000 MHz",
        date="2026-11-20T10:00:00+00:00",
        environment=ENVIRONMENT,
    )
    return replace(base, **changes)


def refused(variant: str = "nfkern", reason: str = "x: error 1 exceeds the derived tolerance 0.1") -> Record:
    """A record without a number."""
    return replace(record(variant), quantiles=None, error=reason)
