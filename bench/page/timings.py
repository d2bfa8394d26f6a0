"""Benchmark records as sections of the page."""

from collections.abc import Mapping, Sequence

from nfkern.bench.page.details import details
from nfkern.bench.page.growth import growth
from nfkern.bench.page.kinds import Section
from nfkern.bench.page.machines import machines, numbered, variants
from nfkern.bench.page.overview import losses, overview
from nfkern.bench.page.rows import timed_rows
from nfkern.bench.records import Record, read

__all__ = ["read", "sections"]


def sections(files: Mapping[str, Sequence[Record]]) -> list[Section]:
    """Overview, losses, growth, machines, variants and every row of all files."""
    rows = timed_rows(files)
    records = [record for each in files.values() for record in each]
    return [
        Section("overview", "Overview", overview(rows)),
        Section("losses", "Where nfkern loses", losses(rows)),
        Section("growth", "How time and memory grow", growth(files)),
        Section("machines", "Machines", machines(rows)),
        Section("variants", "Variants", variants(records)),
        Section("rows", "Every row", details(rows, numbered(rows))),
    ]
