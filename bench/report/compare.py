"""`nfkern bench compare`: two files of records against each other; what became slower by more than the noise."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nfkern.bench.core import records as storage
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import FEWEST, Quantiles
from nfkern.bench.core.units import duration
from nfkern.bench.report.labels import standing_note
from nfkern.errors import UserError

Verdict = Literal["slower", "faster", "within noise", "within bounds", "broken", "missing", "new"]


@dataclass(frozen=True)
class Change:
    """Change of one record between two files.

    Attributes:
        key: as `Record.key`.
        verdict: "within bounds" for a change beyond the noise that is too small to count, "broken" for a number that
            the second file refuses to give, "missing" for one it does not mention.
        before_s: median of the first file, seconds.
        after_s: median of the second file, seconds.
        reason: why it is broken.
    """

    key: str
    verdict: Verdict
    before_s: float | None = None
    after_s: float | None = None
    reason: str | None = None

    @property
    def regression(self) -> bool:
        """Whether `bench compare` fails for it."""
        return self.verdict in ("slower", "broken")


@dataclass(frozen=True)
class Bounds:
    """Changes of a median that are too small to count.

    Attributes:
        relative: a share of the smaller one, e.g. 0.1.
        absolute_s: seconds.
    """

    relative: float = 0.1
    absolute_s: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: a bound is negative, or no number.
        """
        for name, value in (("relative", self.relative), ("absolute_s", self.absolute_s)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}: expected a number >= 0, got {value}")


def compare(before: Sequence[Record], after: Sequence[Record], bounds: Bounds) -> list[Change]:
    """Every record of either file that has or had a number.

    A time has changed if its median moved by more than both bounds and each median lies outside the other's noise, as
    `Quantiles.noise_s`: a machine that jitters widens its own.

    Args:
        before: the first file.
        after: the second file.
        bounds: changes below which nothing is said.
    """
    old, new = ({record.key: record for record in records} for records in (before, after))
    return [change for key in {**old, **new} if (change := _change(key, old.get(key), new.get(key), bounds))]


def at_speed_of(
    variant: str, before: Sequence[Record], after: Sequence[Record]
) -> tuple[list[Record], dict[str, float]]:
    """`after` with each row's times multiplied by what gives `variant` the median that it has in `before`.

    Variants of a row take turns, so the speed of a machine, or of an hour, touches them alike and cancels. What comes
    in is the noise of `variant` itself, in either file.

    Args:
        variant: which both files measured.
        before: the first file.
        after: the second file.

    Returns:
        The records, and the factor of each row; a row where one of the files has no number of `variant` has none and
        stays as it is.
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


def _change(key: str, old: Record | None, new: Record | None, bounds: Bounds) -> Change | None:
    before = old.quantiles if old else None
    after = new.quantiles if new else None
    if before is None:
        return Change(key, "new", after_s=after.median_s) if after else None
    if after is None:
        verdict: Verdict = "missing" if new is None or new.skipped else "broken"
        reason = (new.error or new.skipped) if new else None
        return Change(key, verdict, before.median_s, reason=reason)
    return Change(key, _verdict(before, after, bounds), before.median_s, after.median_s)


def _verdict(before: Quantiles, after: Quantiles, bounds: Bounds) -> Verdict:
    if above(after, before, bounds):
        return "slower"
    if above(before, after, bounds):
        return "faster"
    changed = above(after, before, Bounds(0.0)) or above(before, after, Bounds(0.0))
    return "within bounds" if changed else "within noise"


def above(high: Quantiles, low: Quantiles, bounds: Bounds) -> bool:
    """Whether a time lies above another by more than the noise and the bounds."""
    outside = high.median_s > low.noise_s[1] and low.median_s < high.noise_s[0]
    more = high.median_s - low.median_s
    return outside and more > bounds.relative * low.median_s and more > bounds.absolute_s


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
        bounds = Bounds(
            _number("--fail-if-slower", self.fail_if_slower, {"%": 0.01}),
            _number("--ignore-below", self.ignore_below, {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}),
        )
        before, after = storage.read(self.before), storage.read(self.after)
        scaled = _scaled(self.relative_to, before, after) if self.relative_to else after
        before, after, scaled = (self._wanted(records) for records in (before, after, scaled))
        changes = compare(before, scaled, bounds)
        if not any(change.before_s is not None and change.verdict != "missing" for change in changes):
            raise UserError(
                f"{self.before} and {self.after} have no time in common: were they made with the same suite"
                + (" and have these variants?" if self.variants else "?")
            )
        names = {record.environment.device_name for record in (*before, *after)}
        if len(names) > 1:
            print(f"note: measured on different devices ({', '.join(sorted(names))})")
        for path, records in ((self.before, before), (self.after, after)):
            if any(record.quantiles and not record.quantiles.has_median_band for record in records):
                print(f"note: {path} does not have how far medians move: single calls count, which hides small changes")
            if few := sum(record.quantiles is not None and record.quantiles.repeats < FEWEST for record in records):
                print(f"note: {few} times in {path} are of fewer than {FEWEST} calls: none is called slower or faster")
        for change in changes:
            print(_describe(change))
        regressions = sum(change.regression for change in changes)
        missing = sum(change.verdict == "missing" for change in changes)
        new = sum(change.verdict == "new" for change in changes)
        compared, word = len(changes) - missing - new, "regression" if regressions == 1 else "regressions"
        print(f"{compared} compared, {regressions} {word}; {missing} missing, {new} new")
        return 1 if regressions or (missing and not self.allow_missing) else 0

    def _wanted(self, records: Sequence[Record]) -> list[Record]:
        return [each for each in records if not self.variants or any(part in each.variant for part in self.variants)]


def _number(flag: str, text: str, units: Mapping[str, float]) -> float:
    """A number of 0 or more with one of the units, in units of 1."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z%]*)", text.strip())
    if found is None or found[2] not in units or math.isinf(float(found[1])):
        wanted = " or ".join(f"10{unit}" for unit in units)
        raise UserError(f"{flag}: expected a number >= 0 such as {wanted}, got {text!r}")
    return float(found[1]) * units[found[2]]


def _scaled(variant: str, before: Sequence[Record], after: Sequence[Record]) -> list[Record]:
    """The later records at the earlier speed, and what is to be known about it."""
    scaled, factors = at_speed_of(variant, before, after)
    if not factors:
        shared = sorted({record.variant for record in before} & {record.variant for record in after})
        raise UserError(
            f"--relative-to: expected a variant with a number in a row of both files, got {variant!r}; "
            f"both have {', '.join(shared) or 'none'}"
        )
    low, high = min(factors.values()), max(factors.values())
    print(
        f"note: later times are multiplied, row by row, so that {variant} takes what it took before: "
        f"by {low:.2f} to {high:.2f}"
    )
    rows = storage.by_row(before)
    for row in storage.by_row(after):
        if row in rows and row not in factors:
            print(f"note: {row} is compared by its own times: one of the files has none of {variant} there")
    return scaled


def _describe(change: Change) -> str:
    note = standing_note(change.key.rsplit("-", 1)[1])
    key = f"{change.key} ({note})" if note else change.key
    if change.before_s is None or change.after_s is None:
        (told,) = [duration(each) for each in (change.before_s, change.after_s) if each is not None] or [""]
        return f"{change.verdict:13} {key}: {told}" + (f", {change.reason}" if change.reason else "")
    times = f"{duration(change.before_s)} -> {duration(change.after_s)} ({change.after_s / change.before_s:.2f}x)"
    return f"{change.verdict:13} {key}: {times}"
