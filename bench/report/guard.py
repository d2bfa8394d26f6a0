"""`nfkern bench guard`: whether nfkern is still clearly ahead of eager PyTorch, in seconds, on any machine.

Times of different days and machines cannot be compared, ratios within one measurement can. A row passes while nfkern
keeps half of the lead that the newest file in `bench/results/` with all these rows has for such a machine, or a third
of another machine's: this finds a kernel that is not used any more, or work done twice, not a few per cent; for those
there is `nfkern bench compare`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl
import torch

from nfkern.bench.core.declarations import Benchmark, Row, rows
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.files import RESULTS
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Budget
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.report.frame import read
from nfkern.bench.runner import measure
from nfkern.errors import UserError

KEPT, KEPT_ELSEWHERE = 1 / 2, 1 / 3
BASELINE = "eager"
# Rows with a lead of more than two: elsewhere a third of it would drown in other machines' differences.
GUARDED = tuple(
    Benchmark(work, ("ogbench",), batches, (BASELINE, "nfkern", "nfkern_frozen"), threads=("one",))
    for work, batches in (("inverse", (1,)), ("log_prob", (1,)), ("denoised_action", (1, 256)))
)
BUDGET = Budget(warmup_s=0.1, measure_s=0.5, min_repeats=20)


class Finding(NamedTuple):
    """One variant of a row, beside eager PyTorch in the same measurement.

    Attributes:
        key: as `Record.key`.
        lead: how many times as fast it is now; None where it has no number.
        recorded: how many times as fast it was.
        least: the lead up to which it passes.
        reason: why it has no number.
    """

    key: str
    lead: float | None
    recorded: float
    least: float
    reason: str | None

    @property
    def passed(self) -> bool:
        """Whether enough of the lead is left."""
        return self.lead is not None and self.lead >= self.least

    def __str__(self) -> str:
        """Return one line, as in `ok     inverse-ogbench-1-threads_1-nfkern: 9.1 times as fast as eager (...)`."""
        verdict = "ok    " if self.passed else "BEHIND"
        now = self.reason if self.lead is None else f"{self.lead:.1f} times as fast as {BASELINE}"
        return f"{verdict} {self.key}: {now} (recorded {self.recorded:.1f}, at least {self.least:.1f})"


def recorded_leads(records: pl.DataFrame, device_name: str) -> tuple[dict[str, float], float]:
    """Return how many times as fast as eager PyTorch each key was, and the share of that lead that has to be left.

    They are those of the newest file that has all guarded rows, one of this device if there is any.
    """
    guarded = pl.DataFrame(
        [(row.name, each.name) for row in rows(GUARDED, WORKS, VARIANTS, 1) for each in row.variants],
        schema=["row", "variant"],
        orient="row",
    )
    timed = records.filter(pl.col("median_s").is_not_null(), pl.col("device") == "cpu")
    found = timed.join(guarded, on=["row", "variant"], how="semi", maintain_order="left")
    found = found.filter(pl.struct("row", "variant").n_unique().over("file") == len(guarded)).sort("date")
    if found.is_empty():
        raise UserError(f"no file in {RESULTS} has all rows of the guard, so that there is no lead to keep")
    here = found.filter((pl.col("device_name") == device_name).all().over("file"))
    newest = (found if here.is_empty() else here).filter(pl.col("file") == pl.col("file").last())
    eager = pl.col("median_s").filter(pl.col("variant") == BASELINE).first().over("row")
    leads = newest.select(pl.format("{}-{}", "row", "variant"), eager / pl.col("median_s"))
    return dict(leads.iter_rows()), KEPT_ELSEWHERE if here.is_empty() else KEPT


def findings(measured: Sequence[Record], recorded: Mapping[str, float], kept: float) -> list[Finding]:
    """Return what is left of the recorded leads, by key, in one row's records; `kept` is the share that has to be.

    Raises:
        UserError: eager PyTorch has no number.
    """
    (eager,) = [record for record in measured if record.variant == BASELINE]
    if eager.quantiles is None:
        raise UserError(f"{eager.row}: {BASELINE} has no number ({eager.error or eager.skipped})")
    return [
        Finding(
            record.key,
            eager.quantiles.median_s / record.quantiles.median_s if record.quantiles else None,
            recorded[record.key],
            1 + kept * (recorded[record.key] - 1),
            record.error or record.skipped,
        )
        for record in measured
        if record is not eager
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
            print(*found, sep="\n")
            failed += sum(not finding.passed for finding in found)
        if failed:
            print(f"{failed} fell behind; `nfkern doctor` says which kernels run here")
        return int(failed > 0)
