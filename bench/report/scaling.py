"""How a quantity grows: records that differ in one axis only, and the power laws through them."""

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from nfkern.bench.core.cases import CASES, Case
from nfkern.bench.core.records import Record

FEWEST = 3
"""Points of a curve: through two there is always a line."""

Quantity = Callable[[Record], float | None]
"""Reads a number off a record; None where it has no such number."""

_AXES = ("batch", "threads")


def median_s(record: Record) -> float | None:
    """Seconds per call."""
    return record.quantiles.median_s if record.quantiles else None


def peak_bytes(record: Record) -> float | None:
    """Bytes that a training step holds at most."""
    return record.peak_bytes or None


@dataclass(frozen=True)
class Family:
    """Records that differ in one axis and the variant only.

    Attributes:
        axis: "batch", "threads" or a field of the cases.
        shared: what all have in common: work, device, cores, batch, threads and the case's fields, less the axis.
        curves: by variant, the records by their value on the axis, which ascends; at least `FEWEST` each.
    """

    axis: str
    shared: Mapping[str, Any]
    curves: Mapping[str, Mapping[int, Record]]

    @property
    def records(self) -> list[Record]:
        """The records of all curves."""
        return [record for curve in self.curves.values() for record in curve.values()]


@dataclass(frozen=True)
class PowerLaw:
    """`coefficient * x ** exponent`, least squares in the logarithms.

    Attributes:
        low, high: the range of x that it was fitted to.
        points: how many.
        off: the largest factor between a point and the law, at least 1.
        last: the exponent between the last two points alone: where it differs, this is no power law yet.
    """

    exponent: float
    coefficient: float
    low: float
    high: float
    points: int
    off: float
    last: float


def families(
    records: Sequence[Record], cases: Mapping[str, Case] = CASES, quantity: Quantity = median_s
) -> list[Family]:
    """Every way in which at least `FEWEST` records of a variant differ in one axis only.

    Records of cases that are no longer known are left out. Of two records at one point the
    later one counts. Machines are never mixed, commits may be.

    Args:
        records: of one file, or of several that belong together.
        cases: by name.
        quantity: what is to be drawn; records without it are left out.
    """
    groups: dict[tuple[str, Hashable], dict[str, dict[int, Record]]] = {}
    shared: dict[tuple[str, Hashable], dict[str, Any]] = {}
    for record in sorted((each for each in records if quantity(each) is not None), key=lambda each: each.date):
        described = _described(record, cases)
        for axis in _axes(described):
            rest = {name: value for name, value in described.items() if name != axis}
            group = (axis, tuple(rest.items()))
            shared[group] = rest
            groups.setdefault(group, {}).setdefault(record.variant, {})[described[axis]] = record
    found = []
    for (axis, key), variants in groups.items():
        curves = {name: dict(sorted(curve.items())) for name, curve in variants.items() if len(curve) >= FEWEST}
        if curves:
            found.append(Family(axis, shared[axis, key], curves))
    return sorted(found, key=lambda family: _place(family, records))


def fit(points: Mapping[int, float] | Mapping[float, float]) -> PowerLaw:
    """The power law through values by x, which ascends.

    Raises:
        ValueError: fewer than two points, or one that has no logarithm.
    """
    if len(points) < 2 or any(x <= 0 or y <= 0 for x, y in points.items()):
        raise ValueError(f"points: expected at least two, all above 0, got {dict(points)}")
    xs, ys = [math.log(x) for x in points], [math.log(y) for y in points.values()]
    exponent, intercept = statistics.linear_regression(xs, ys)
    off = max(abs(y - intercept - exponent * x) for x, y in zip(xs, ys, strict=True))
    last = (ys[-1] - ys[-2]) / (xs[-1] - xs[-2])
    return PowerLaw(exponent, math.exp(intercept), min(points), max(points), len(points), math.exp(off), last)


def _described(record: Record, cases: Mapping[str, Case]) -> dict[str, Any]:
    """Everything that tells its measurement from others of the variant; empty if its case is not known."""
    case = cases.get(record.case)
    if case is None:
        return {}
    place = record.environment
    described: dict[str, Any] = {"work": record.work, "device": place.device_name, "cores": place.cores}
    described |= {"batch": record.batch, "threads": record.threads, "shape": type(case).__name__}
    for each in fields(case):
        if each.name != "name":
            value = getattr(case, each.name)
            # Layers of one width are as wide as one number says.
            equal = isinstance(value, tuple) and len(set(value)) == 1
            described[each.name] = value[0] if equal else value
    return described


def _axes(described: Mapping[str, Any]) -> list[str]:
    return [name for name, value in described.items() if isinstance(value, int) and name != "cores"]


def _place(family: Family, records: Sequence[Record]) -> tuple[int, bool, int]:
    """Works as the records have them, batches first, then the other axes."""
    first = next(index for index, record in enumerate(records) if record.work == family.shared["work"])
    own = {id(record) for record in family.records}
    return first, family.axis not in _AXES, next(index for index, record in enumerate(records) if id(record) in own)
