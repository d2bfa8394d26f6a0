"""Results of `nfkern bench quality` as sections of the page."""

from collections.abc import Mapping
from html import escape

from nfkern.bench.report.page.kinds import Section
from nfkern.bench.studies.quality.records import Results, read
from nfkern.bench.studies.quality.report import body

__all__ = ["read", "sections"]


def sections(files: Mapping[str, Results]) -> list[Section]:
    """The study's own page, file by file."""
    found = []
    for number, (file, results) in enumerate(files.items(), 1):
        title = "Quality beside speed" + (f", {file}" if len(files) > 1 else "")
        origin = f"{file}: {len(results.fits)} fits, started {results.started}."
        found.append(Section(f"quality-{number}", title, f"<p>{escape(origin)}</p>\n{body(results)}"))
    return found
