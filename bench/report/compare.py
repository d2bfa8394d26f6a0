"""`nfkern bench compare`: two files of records against each other; what became slower by more than the noise."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from nfkern.bench.core import records as storage
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import FEWEST
from nfkern.bench.core.units import duration
from nfkern.bench.report.labels import standing_note
from nfkern.errors import UserError

Verdict = Literal["slower", "faster", "within noise", "within bounds", "broken", "missing", "new"]


class Change(NamedTuple):
    """Change of one record between two files: medians in seconds, and why a number is broken or missing."""

    key: str
    verdict: Verdict
    before_s: float | None = None
    after_s: float | None = None
    reason: str | None = None

    @property
    def regression(self) -> bool:
        """Whether `bench compare` fails for it."""
        return self.verdict in ("slower", "broken")

    def __str__(self) -> str:
        """Return one line, as in `slower        inverse-ogbench-1-threads_1-nfkern: 1.00 ms -> 1.50 ms (1.50x)`."""
        note = standing_note(self.key.rsplit("-", 1)[1])
        line = f"{self.verdict:13} {self.key}{f' ({note})' if note else ''}: "
        line += " -> ".join(duration(each) for each in (self.before_s, self.after_s) if each is not None)
        if self.before_s and self.after_s:
            line += f" ({self.after_s / self.before_s:.2f}x)"
        return line + (f", {self.reason}" if self.reason else "")


def compare(
    before: Sequence[Record], after: Sequence[Record], relative: float = 0.1, absolute_s: float = 0.0
) -> list[Change]:
    """Return the changes of all records of either file that have or had a number.

    A median's change of up to the share `relative` of the smaller one, or up to `absolute_s` seconds, is within bounds.
    """
    old, new = ({record.key: record for record in records} for records in (before, after))
    found = (_change(key, old.get(key), new.get(key), relative, absolute_s) for key in {**old, **new})
    return [change for change in found if change]


def _change(key: str, old: Record | None, new: Record | None, relative: float, absolute_s: float) -> Change | None:
    before, after = old and old.quantiles, new and new.quantiles
    if not before:
        return Change(key, "new", after_s=after.median_s) if after else None
    verdict: Verdict
    if not after:
        verdict = "broken" if new and not new.skipped else "missing"
        return Change(key, verdict, before.median_s, reason=(new.error or new.skipped) if new else None)
    if after.above(before, relative, absolute_s):
        verdict = "slower"
    elif before.above(after, relative, absolute_s):
        verdict = "faster"
    else:
        verdict = "within bounds" if after.above(before) or before.above(after) else "within noise"
    return Change(key, verdict, before.median_s, after.median_s)


def at_speed_of(
    variant: str, before: Sequence[Record], after: Sequence[Record]
) -> tuple[list[Record], dict[str, float]]:
    """Return `after` with each row's times multiplied by what gives `variant` its earlier median, and these factors.

    Variants of a row take turns, so the speed of a machine, or of an hour, touches them alike and cancels. What comes
    in is the noise of `variant` itself, in either file. A row where a file has no number of it stays as it is.
    """
    earlier, later = (
        {r.row: r.quantiles for r in records if r.variant == variant and r.quantiles} for records in (before, after)
    )
    factors = {row: earlier[row].median_s / later[row].median_s for row in earlier.keys() & later.keys()}
    scaled = [
        replace(record, quantiles=record.quantiles.at_speed(earlier[record.row], later[record.row]))
        if record.quantiles and record.row in factors
        else record
        for record in after
    ]
    return scaled, factors


@dataclass(frozen=True)
class Compare:
    """Compare two files of records; exit code 1 if something became slower, stopped working or is missing.

    A change counts if the medians differ by more than both bounds and lie outside each other's noise, else it is within
    bounds or within noise. Noise is the 10 to 90 % band of the medians of twenty parts of the measurement, or of single
    calls in older files, which a note names. It does not cover two hours or machines: their speed cancels with
    --relative-to, which adds the noise of that variant. Fewer than three calls are never called slower or faster.
    """

    before: Annotated[Path, tyro.conf.Positional]
    """File of the earlier records."""
    after: Annotated[Path, tyro.conf.Positional]
    """File of the later records."""
    fail_if_slower: str = "10%"
    """Relative change of a median that is still ignored, a percentage."""
    ignore_below: str = "0us"
    """Absolute change of a median that is ignored: s, ms, us or ns."""
    relative_to: str = ""
    """Scale each later row by what gives this variant, e.g. eager, its earlier time: the speed of the day cancels."""
    variants: tuple[str, ...] = ()
    """Only variants whose name contains one of these, as in `nfkern`: a slower rival is then no regression."""
    allow_missing: bool = False
    """Accept what only the earlier file has."""

    def run(self) -> int:
        """Print the changes; 0, or 1 if there is a regression."""
        relative = _number("--fail-if-slower", self.fail_if_slower, {"%": 0.01})
        absolute_s = _number("--ignore-below", self.ignore_below, {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0})
        before, after = storage.read(self.before), storage.read(self.after)
        scaled = _scaled(self.relative_to, before, after) if self.relative_to else after
        before, after, scaled = (self._wanted(records) for records in (before, after, scaled))
        changes = compare(before, scaled, relative, absolute_s)
        missing, new = (sum(change.verdict == word for change in changes) for word in ("missing", "new"))
        compared, regressions = len(changes) - missing - new, sum(change.regression for change in changes)
        if not compared:
            raise UserError(
                f"{self.before} and {self.after} have no time in common: were they made with the same suite"
                + (" and have these variants?" if self.variants else "?")
            )
        for line in (*self._notes(before, after), *changes):
            print(line)
        word = "regression" if regressions == 1 else "regressions"
        print(f"{compared} compared, {regressions} {word}; {missing} missing, {new} new")
        return 1 if regressions or (missing and not self.allow_missing) else 0

    def _wanted(self, records: Sequence[Record]) -> list[Record]:
        return [each for each in records if not self.variants or any(part in each.variant for part in self.variants)]

    def _notes(self, before: Sequence[Record], after: Sequence[Record]) -> Iterator[str]:
        names = {record.environment.device_name for record in (*before, *after)}
        if len(names) > 1:
            yield f"note: measured on different devices ({', '.join(sorted(names))})"
        for path, records in ((self.before, before), (self.after, after)):
            times = [record.quantiles for record in records if record.quantiles]
            if not all(each.has_median_band for each in times):
                yield f"note: {path} does not have how far medians move: single calls count, which hides small changes"
            if few := sum(each.repeats < FEWEST for each in times):
                yield f"note: {few} times in {path} are of fewer than {FEWEST} calls: none is called slower or faster"


def _number(flag: str, text: str, units: Mapping[str, float]) -> float:
    """Return a number of 0 or more with one of the units, in units of 1."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z%]*)", text.strip())
    if found is None or found[2] not in units or float(found[1]) == float("inf"):
        wanted = " or ".join(f"10{unit}" for unit in units)
        raise UserError(f"{flag}: expected a number >= 0 such as {wanted}, got {text!r}")
    return float(found[1]) * units[found[2]]


def _scaled(variant: str, before: Sequence[Record], after: Sequence[Record]) -> list[Record]:
    """Return the later records at the earlier speed, and print what is to be known about it."""
    scaled, factors = at_speed_of(variant, before, after)
    if not factors:
        shared = sorted({record.variant for record in before} & {record.variant for record in after})
        raise UserError(
            f"--relative-to: expected a variant with a number in a row of both files, got {variant!r}; "
            f"both have {', '.join(shared) or 'none'}"
        )
    print(
        f"note: later times are multiplied, row by row, so that {variant} takes what it took before: "
        f"by {min(factors.values()):.2f} to {max(factors.values()):.2f}"
    )
    earlier = {record.row for record in before}
    for row in storage.by_row(after):
        if row in earlier and row not in factors:
            print(f"note: {row} is compared by its own times: one of the files has none of {variant} there")
    return scaled
