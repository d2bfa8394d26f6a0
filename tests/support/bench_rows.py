"""Rows of the benchmark page for tests."""

from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.rows import Timed
from support.bench_records import record, spread


def row(*records):
    return Timed("row", "records.json", False, records)


def timed(**medians):
    """A row of medians in milliseconds, with bands of 2 % to either side."""
    times = {name: spread(value * 1e-3) for name, value in medians.items()}
    return row(*(record(name, each, precision=VARIANTS[name].precision) for name, each in times.items()))
