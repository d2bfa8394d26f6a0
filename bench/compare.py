"""Two files of records against each other: what became slower by more than the noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nfkern.bench.records import Record
from nfkern.bench.timing import Quantiles

Verdict = Literal["slower", "faster", "same", "broken", "missing", "new"]


@dataclass(frozen=True)
class Change:
    """What became of one record.

    Attributes:
        key: as `Record.key`.
        verdict: "broken" for a number that the second file refuses to give, "missing" for one it does not mention.
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
    """Changes of a median up to which nothing is said.

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

    Variants of a row take turns, so the speed of a machine, or of an hour, touches them alike and cancels.

    Args:
        variant: which both files measured.
        before: the first file.
        after: the second file.

    Returns:
        The records, and the factor of each row; a row where one of the files has no number of `variant` has none and
        stays as it is.
    """
    earlier, later = (
        {r.row: r.quantiles.median_s for r in records if r.variant == variant and r.quantiles}
        for records in (before, after)
    )
    factors = {row: earlier[row] / later[row] for row in earlier.keys() & later.keys()}
    scaled = [
        replace(record, quantiles=record.quantiles.scaled(factors.get(record.row, 1.0))) if record.quantiles else record
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
    return "faster" if above(before, after, bounds) else "same"


def above(high: Quantiles, low: Quantiles, bounds: Bounds) -> bool:
    """Whether a time lies above another by more than the noise and the bounds."""
    outside = high.median_s > low.noise_s[1] and low.median_s < high.noise_s[0]
    more = high.median_s - low.median_s
    return outside and more > bounds.relative * low.median_s and more > bounds.absolute_s
