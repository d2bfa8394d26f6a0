"""The command that measures a row again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from nfkern.bench.core.declarations import Row, rows
from nfkern.bench.core.records import Record
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.suites import SUITES


@dataclass(frozen=True)
class Reproduction:
    """How to measure a row again.

    Attributes:
        command: for a shell.
        missing: variants of the row that it leaves out, for no suite has them there any more.
        further: variants that it measures and the row lacks.
    """

    command: str
    missing: tuple[str, ...]
    further: tuple[str, ...] = ()


def reproduction(records: Sequence[Record]) -> Reproduction | None:
    """With the suite that has most of the row's variants; None if none has the row any more.

    Of several the one that measures memory if the row has it, then the one with the fewest further variants.

    Args:
        records: of one row.
    """
    first, measured = records[0], [record.variant for record in records]
    with_memory = any(record.peak_bytes for record in records)
    # What "all" threads mean is the machine's affair: here it is the row's own number.
    found = [
        (name, row)
        for name, benchmarks in SUITES.items()
        for row in rows(benchmarks, WORKS, VARIANTS, first.threads)
        if row.name == first.row and {variant.name for variant in row.variants} & set(measured)
    ]
    if not found:
        return None

    def fit(suite: tuple[str, Row]) -> tuple[int, bool, int]:
        names = {variant.name for variant in suite[1].variants}
        return len(names & set(measured)), suite[1].memory == with_memory, -len(names)

    best, row = max(found, key=fit)
    declared = [variant.name for variant in row.variants]
    device = [] if first.environment.device == "cpu" else ["--device", first.environment.device]
    words = ["nfkern", "bench", "run", "--suite", best, *device, "--match", first.row]
    words += ["--threads", str(first.threads), "--out", f"{first.row}.json"]
    return Reproduction(
        shlex.join(words),
        tuple(name for name in measured if name not in declared),
        tuple(name for name in declared if name not in measured),
    )
