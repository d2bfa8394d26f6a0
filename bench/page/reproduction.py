"""The command that measures a row again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from nfkern.bench.declarations import rows
from nfkern.bench.records import Record
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.suites import SUITES

OUT = "again.json"


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
    """With the suite that has most of the row's variants, the first of several; None if none has the row any more.

    Args:
        records: of one row.
    """
    first, best, shared = records[0], "", set[str]()
    declared: tuple[str, ...] = ()
    measured = [record.variant for record in records]
    for name, benchmarks in SUITES.items():
        # What "all" threads mean is the machine's affair: here it is the row's own number.
        for row in rows(benchmarks, WORKS, VARIANTS, first.threads):
            names = tuple(variant.name for variant in row.variants)
            here = set(names) & set(measured)
            if row.name == first.row and len(here) > len(shared):
                best, shared, declared = name, here, names
    if not best:
        return None
    device = [] if first.environment.device == "cpu" else ["--device", first.environment.device]
    threads = ["--threads", str(first.threads)] if first.threads > 1 else []
    words = ["nfkern", "bench", "run", "--suite", best, *device, "--match", first.row, *threads, "--out", OUT]
    missing, further = set(measured) - shared, set(declared) - shared
    return Reproduction(
        shlex.join(words),
        tuple(name for name in measured if name in missing),
        tuple(name for name in declared if name in further),
    )
