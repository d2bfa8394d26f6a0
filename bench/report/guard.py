"""`nfkern bench guard`: whether nfkern is still clearly ahead of eager PyTorch, in seconds, on any machine.

Times of different days and machines cannot be compared, ratios within one measurement can. A row passes while nfkern
keeps half of the lead that the newest file in `bench/results/` with all these rows has for such a machine, or a third
of another machine's: this finds a kernel that is not used any more, or work done twice, not a few per cent; for those
there is `nfkern bench compare`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch

from nfkern.bench.core.declarations import Benchmark, Row, rows
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.files import RESULTS
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Budget
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.report.frame import medians, read
from nfkern.bench.runner import measure
from nfkern.errors import UserError

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


def recorded_leads(records: pl.DataFrame, device_name: str) -> tuple[dict[str, float], float]:
    """By key, how many times as fast as eager PyTorch it was, and how much of that lead has to be left.

    Of the newest file that has all guarded rows, of this machine if there is one.

    Args:
        records: as `frame.frame`.
        device_name: of this machine, as in its environment.
    """
    guarded = {(row.name, each.name) for row in rows(GUARDED, WORKS, VARIANTS, 1) for each in row.variants}
    timed = records.filter(pl.col("median_s").is_not_null(), pl.col("device") == "cpu")
    suitable = [
        each for each in timed.partition_by("file") if guarded <= set(each.select("row", "variant").iter_rows())
    ]
    if not suitable:
        raise UserError(f"no file in {RESULTS} has all rows of the guard, so that there is no lead to keep")
    here = [each for each in suitable if each["device_name"].unique().to_list() == [device_name]]
    newest = max(here or suitable, key=lambda each: str(each["date"].max()))
    leads = {
        f"{line['row']}-{variant}": line[BASELINE] / seconds
        for line in medians(newest).iter_rows(named=True)
        for variant, seconds in line.items()
        if variant != "row" and seconds and line[BASELINE]
    }
    return leads, KEPT if here else KEPT_ELSEWHERE


def findings(measured: Sequence[Record], recorded: Mapping[str, float], kept: float) -> list[Finding]:
    """Return what is left of the leads of one row.

    Args:
        measured: the row's records, eager PyTorch's among them.
        recorded: leads by key, those of this row among them.
        kept: share of a lead that has to be left.

    Raises:
        UserError: eager PyTorch has no number.
    """
    times = {record.variant: record.quantiles.median_s for record in measured if record.quantiles}
    if BASELINE not in times:
        reason = next((record.error or record.skipped for record in measured if record.variant == BASELINE), "not run")
        raise UserError(f"{measured[0].row}: {BASELINE} has no number ({reason})")
    return [
        Finding(
            record.key,
            times[BASELINE] / times[record.variant] if record.variant in times else None,
            recorded[record.key],
            kept,
            record.error or record.skipped,
        )
        for record in measured
        if record.variant != BASELINE
    ]


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
        recorded, usual = recorded_leads(read(RESULTS), environment.device_name)
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
