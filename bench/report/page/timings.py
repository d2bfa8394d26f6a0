"""Benchmark records as sections of the page."""

from collections.abc import Mapping, Sequence

from nfkern.bench.core.records import Record, read
from nfkern.bench.report.page.details import details
from nfkern.bench.report.page.growth import growth
from nfkern.bench.report.page.kinds import Section
from nfkern.bench.report.page.machines import machines, numbered, variants
from nfkern.bench.report.page.overview import losses, overview
from nfkern.bench.report.page.rows import timed_rows

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
