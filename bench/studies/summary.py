"""Numbers over seeds, and which policies none is preferable to."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean and, of two seeds or more, standard deviation."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def above(self, other: "Spread") -> bool:
        """Whether it is larger by more than the spreads: than the root of the sum of the squared deviations."""
        return self.mean - other.mean > math.hypot(self.deviation or 0.0, other.deviation or 0.0)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, loss) to which no other is preferable, from the cheapest on.

    Another is preferable if it has as low a cost and as low a loss, and one of the two lower.
    """
    best: list[str] = []
    for name in sorted(points, key=points.__getitem__):
        if not best or points[name][1] < points[best[-1]][1]:
            best.append(name)
    return best


def beyond_spread(seeds: int) -> str:
    """How to say of a difference that it is beyond the seeds' spread: one seed has none."""
    return "beyond the seeds' spread" if seeds > 1 else "by one seed, whose spread is not known"
