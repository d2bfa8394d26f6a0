"""The command that measures a row again."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

from nfkern.bench.core.declarations import Benchmark, rows
from nfkern.bench.core.records import Record
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.suites import SUITES


class Reproduction(NamedTuple):
    """How to measure a row again.

    Attributes:
        command: for a shell.
        missing: variants of the row that it leaves out, for no suite has them there any more.
        further: variants that it measures and the row lacks.
    """

    command: str
    missing: tuple[str, ...]
    further: tuple[str, ...]


def reproduction(records: Sequence[Record]) -> Reproduction | None:
    """Return the command of the suite that has most of one row's variants; None if no suite has the row any more.

    Of several it is the one that measures memory if the row has it, then the one with the fewest further variants.
    """
    first, measured = records[0], {record.variant: record for record in records}
    with_memory = any(record.peak_bytes for record in records)

    def fit(suite: tuple[str, Benchmark]) -> tuple[int, bool, int]:
        return len(measured.keys() & suite[1].variants), suite[1].memory == with_memory, -len(suite[1].variants)

    # What "all" threads mean is the machine's affair: here it is the row's own number.
    found = [
        (name, each)
        for name, benchmarks in SUITES.items()
        for each in benchmarks
        if each.work == first.work and first.case in each.cases and measured.keys() & each.variants
        if any(row.name == first.row for row in rows([each], WORKS, VARIANTS, first.threads))
    ]
    if not found:
        return None
    suite, best = max(found, key=fit)
    device = [] if first.environment.device == "cpu" else ["--device", first.environment.device]
    words = ["nfkern", "bench", "run", "--suite", suite, *device, "--match", first.row]
    words += ["--threads", str(first.threads), "--out", f"{first.row}.json"]
    return Reproduction(
        shlex.join(words),
        tuple(name for name in measured if name not in best.variants),
        tuple(name for name in best.variants if name not in measured),
    )
