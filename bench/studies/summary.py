"""Numbers over seeds as rows, their cells as text, and the policies to which none is preferable."""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from nfkern.bench.core.units import duration


@dataclass(frozen=True)
class Spread:
    """Mean and, for two seeds or more, standard deviation."""

    mean: float
    deviation: float | None

    def above(self, other: "Spread") -> bool:
        """Whether it is larger by more than the spreads: than the root of the sum of the squared deviations."""
        return self.mean - other.mean > math.hypot(self.deviation or 0.0, other.deviation or 0.0)


@dataclass(frozen=True)
class Row:
    """Numbers of a policy under a condition.

    Attributes:
        values: by quantity, in SI units and shares; usually one a seed.
        curve: (seconds of training, value) on the way.
        error: why something is missing.
    """

    values: Mapping[str, Sequence[float]]
    curve: tuple[tuple[float, float], ...] = ()
    error: str | None = None

    def spread(self, name: str) -> Spread | None:
        """Return a quantity over seeds; None where there is none."""
        values = self.values.get(name)
        if not values:
            return None
        return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def cell(self, name: str, text: Callable[[Spread], str]) -> str:
        """Return a quantity as text; nothing where there is none."""
        spread = self.spread(name)
        return "" if spread is None else text(spread)


Rows = dict[str, dict[str, Row]]
"""By condition, then by policy."""

Table = tuple[list[str], list[list[str]]]
"""Head and rows of text."""

Column = tuple[str, Callable[[Row], str]]
"""Head, and the cell of a row."""


@dataclass(frozen=True)
class Measure:
    """A quantity by which policies are compared; `sign` is 1 where less is better, and -1 where more is."""

    name: str
    label: str
    sign: int

    def points(self, rows: Mapping[str, Row], cost: str) -> dict[str, tuple[float, float]]:
        """Return cost and loss (lower is better) of each policy that has both."""
        found = {name: (row.spread(cost), row.spread(self.name)) for name, row in rows.items()}
        return {name: (one.mean, self.sign * other.mean) for name, (one, other) in found.items() if one and other}

    def ahead(self, rows: Mapping[str, Row], ours: str, others: Collection[str]) -> list[str]:
        """Return those of the others that are better than `ours` by more than the seeds' spreads; the best first."""
        own = rows[ours].spread(self.name)
        better = [
            (self.sign * theirs.mean, name)
            for name in others
            if name in rows and own and (theirs := rows[name].spread(self.name))
            if (own.above(theirs) if self.sign > 0 else theirs.above(own))
        ]
        return [name for _, name in sorted(better)]


@dataclass(frozen=True)
class Cost:
    """Quantity of the rows that quality is drawn against, or with `curves` the axis of their curves."""

    name: str
    label: str
    curves: bool = False


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, loss) to which no other is preferable, from the cheapest on.

    Another is preferable if it has as low a cost and as low a loss, and one of the two lower.
    """
    best: list[str] = []
    for name in sorted(points, key=points.__getitem__):
        if not best or points[name][1] < points[best[-1]][1]:
            best.append(name)
    return best


def number(digits: int) -> Callable[[Spread], str]:
    """Text of a mean and its deviation."""

    def text(value: Spread) -> str:
        mean = f"{value.mean:.{digits}f}"
        return mean if value.deviation is None else f"{mean} ± {value.deviation:.{digits}f}"

    return text


def percent(value: Spread) -> str:
    """Text of a mean share."""
    return f"{100 * value.mean:.0f} %"


def seconds(value: Spread) -> str:
    """Text of a mean time."""
    return duration(value.mean)


def column(head: str, name: str, text: Callable[[Spread], str]) -> Column:
    """A column of one quantity."""
    return head, lambda row: row.cell(name, text)


def table(rows: Mapping[str, Row], columns: Sequence[Column], names: Mapping[str, str] | None = None) -> Table:
    """A policy a line; a policy without the first quantity has the reason in its place."""

    def cells(row: Row) -> list[str]:
        first, *rest = (text(row) for _, text in columns)
        return [first or (f"failed: {row.error}" if row.error else "not evaluated yet"), *rest]

    head = ["policy", *(head for head, _ in columns)]
    return head, [[(names or {}).get(name, name), *cells(row)] for name, row in rows.items()]


def across(rows: Rows, names: Sequence[str], text: Callable[[Row], str], shown: Mapping[str, str]) -> Table:
    """A policy a line and a condition a column."""
    lines = [
        [shown.get(name, name), *(text(row[name]) if name in row else "" for row in rows.values())] for name in names
    ]
    return ["policy", *rows], lines


def counted(count: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
