"""`nfkern bench guard`: whether nfkern is still clearly ahead of eager PyTorch, in seconds, on any machine.

Times of different days and machines cannot be compared, ratios within one measurement can. A row passes while nfkern
keeps half of the lead that `bench/results/` records for it on such a machine, or a third of another machine's: what
this finds is a kernel that is not used any more, or work done twice, not a few per cent; for those there is `nfkern
bench compare`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from nfkern.bench.core import records as storage
from nfkern.bench.core.declarations import Benchmark, Row, rows
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.files import RESULTS
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Budget
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.runner import measure
from nfkern.errors import UserError

# The first is asked where no other is of the machine at hand; its own device has no family and model in its name, as
# records had it then, and is no machine's any more.
RECORDED = (RESULTS / "cpu-2026-11-26.json", RESULTS / "quick-cpu-2026-11-27.json")
KEPT, KEPT_ELSEWHERE = 1 / 2, 1 / 3
BASELINE = "eager"
# Rows with a lead of more than two: elsewhere a third of it would drown in other machines' differences.
GUARDED = (
    Benchmark("inverse", ("ogbench",), (1,), (BASELINE, "nfkern", "nfkern_frozen"), threads=("one",)),
    Benchmark("log_prob", ("ogbench",), (1,), (BASELINE, "nfkern", "nfkern_frozen"), threads=("one",)),
    Benchmark("denoised_action", ("ogbench",), (1, 256), (BASELINE, "nfkern", "nfkern_frozen"), threads=("one",)),
)
BUDGET = Budget(warmup_s=0.1, measure_s=0.5, min_repeats=20)


@dataclass(frozen=True)
class Finding:
    """One variant of a row, beside eager PyTorch in the same measurement.

    Attributes:
        key: as `Record.key`.
        lead: how many times as fast it is now; None where it has no number.
        recorded: how many times as fast it was.
        kept: share of the lead that has to be left.
        reason: why it has no number.
    """

    key: str
    lead: float | None
    recorded: float
    kept: float
    reason: str | None = None

    @property
    def least(self) -> float:
        """The lead up to which it passes."""
        return 1 + self.kept * (self.recorded - 1)

    @property
    def passed(self) -> bool:
        """Whether enough of the lead is left."""
        return self.lead is not None and self.lead >= self.least


def leads_for(device_name: str) -> tuple[list[Record], float]:
    """Records to keep up with on a machine, and how much of a lead has to be left there."""
    files = [storage.read(path) for path in RECORDED]
    for records in files:
        if all(record.environment.device_name == device_name for record in records):
            return records, KEPT
    return files[0], KEPT_ELSEWHERE


def findings(measured: Sequence[Record], recorded: Iterable[Record], kept: float) -> list[Finding]:
    """What became of the leads of one row.

    Args:
        measured: the row's records, eager PyTorch's among them.
        recorded: any rows' records, those of this row among them.
        kept: share of a lead that has to be left.

    Raises:
        UserError: the row is not recorded, or eager PyTorch has no number.
    """
    times = {record.variant: record.quantiles.median_s for record in measured if record.quantiles}
    before = {record.key: record.quantiles.median_s for record in recorded if record.quantiles}
    if BASELINE not in times:
        reason = next((record.error or record.skipped for record in measured if record.variant == BASELINE), "not run")
        raise UserError(f"{measured[0].row}: {BASELINE} has no number ({reason})")
    found = []
    for record in measured:
        if record.variant == BASELINE:
            continue
        baseline = f"{record.row}-{BASELINE}"
        if record.key not in before or baseline not in before:
            raise UserError(f"{record.key} is not recorded, so that there is no lead to keep")
        lead = times[BASELINE] / times[record.variant] if record.variant in times else None
        reason = record.error or record.skipped
        found.append(Finding(record.key, lead, before[baseline] / before[record.key], kept, reason))
    return found


@dataclass(frozen=True)
class Guard:
    """Measure a few rows and fail where nfkern has lost half of its recorded lead over eager PyTorch, or more.

    A row that fails is measured a second time, and fails if it does so again. Takes about twenty seconds.
    """

    kept: float | None = None
    """Share of the recorded lead that has to be left, 0 to 1; by default 1/2, or 1/3 where no record is of such a
    machine."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.kept is not None and not 0 <= self.kept <= 1:
            raise ValueError(f"kept: expected a number from 0 to 1, got {self.kept}")

    def run(self) -> int:
        """Print one line per variant; 1 if one has fallen behind."""
        environment = current_environment(torch.device("cpu"))
        recorded, usual = leads_for(environment.device_name)
        kept = usual if self.kept is None else self.kept

        def look(row: Row) -> list[Finding]:
            return findings(measure(row, torch.device("cpu"), environment, BUDGET), recorded, kept)

        failed = 0
        for row in rows(GUARDED, WORKS, VARIANTS, 1):
            found = look(row)
            if not all(finding.passed for finding in found):
                found = look(row)
            for finding in found:
                print(_line(finding))
            failed += sum(not finding.passed for finding in found)
        if failed:
            print(f"{failed} fell behind; `nfkern doctor` says which kernels run here")
        return int(failed > 0)


def _line(finding: Finding) -> str:
    verdict = "ok    " if finding.passed else "BEHIND"
    now = finding.reason if finding.lead is None else f"{finding.lead:.1f} times as fast as {BASELINE}"
    return f"{verdict} {finding.key}: {now} (recorded {finding.recorded:.1f}, at least {finding.least:.1f})"
