"""Results of `nfkern bench quality` as sections of the page."""

from collections.abc import Mapping

from nfkern.bench.report.page.kinds import Section
from nfkern.bench.studies.quality.records import Results
from nfkern.bench.studies.quality.report import REPORT

read = REPORT.read


def sections(files: Mapping[str, Results]) -> list[Section]:
    """Return the study's own page, file by file."""
    return [Section(*each) for each in REPORT.sections_of(files)]
