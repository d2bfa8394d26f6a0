"""How a quantity grows: records that differ in one axis only, and the power laws through them."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import polars as pl

from nfkern.bench.core.cases import CASES, Case

FEWEST = 3
"""Points of a curve: through two there is always a line."""


class Family(NamedTuple):
    """Records that differ in one axis and the variant only.

    Attributes:
        axis: "batch", "threads" or a field of the cases.
        shared: what all have in common: work, device, cores, batch, threads and the case's fields, less the axis.
        records: as `frame.frame`; in `x` the axis, which ascends, in `y` the quantity.
    """

    axis: str
    shared: Mapping[str, Any]
    records: pl.DataFrame

    @property
    def curves(self) -> dict[str, dict[int, float]]:
        """Points of each variant, `FEWEST` or more: the quantity by place. The one that ends highest comes first."""
        parts = self.records.partition_by("variant", as_dict=True, maintain_order=True).items()
        curves = {str(name): dict(part.select("x", "y").iter_rows()) for (name,), part in parts}
        return dict(sorted(curves.items(), key=lambda curve: -curve[1][max(curve[1])]))


class PowerLaw(NamedTuple):
    """`coefficient * x ** exponent`, least squares in the logarithms.

    Attributes:
        off: the largest factor between a point and the law, at least 1.
        last: the exponent between the last two points alone: where it differs, this is no power law yet.
    """

    exponent: float
    coefficient: float
    off: float
    last: float


def families(records: pl.DataFrame, quantity: str, cases: Mapping[str, Case] = CASES) -> list[Family]:
    """Every way in which at least `FEWEST` records of a variant differ in one axis only.

    Works come as in the records; of each, batches and threads come before the cases' fields. Of two records at one
    point the later one counts. Machines are never mixed, commits may be.

    Args:
        records: of one file, as `frame.frame`; those without the quantity, or of unknown cases, are left out.
        quantity: a column.
        cases: by name.
    """
    described = pl.DataFrame([_described(case) for case in cases.values()], infer_schema_length=None)
    known = records.with_row_index().with_columns(y=pl.col(quantity).cast(float))
    known = known.filter(pl.col("y") > 0).join(described, on="case", maintain_order="left").sort("date")
    shape = [name for name in described.columns if name != "case"]
    axes = ["batch", "threads", *(name for name in shape if described[name].dtype == pl.Int64)]
    key = ["work", "device_name", "cores", "batch", "threads", *shape]
    found = []
    for axis in axes:
        rest = [name for name in key if name != axis]
        for group in known.filter(pl.col(axis).is_not_null()).partition_by(rest, maintain_order=True):
            points = group.unique(["variant", axis], keep="last", maintain_order=True).sort(axis)
            points = points.filter(pl.len().over("variant") >= FEWEST).with_columns(x=pl.col(axis))
            if len(points):
                shared = {name: value for name in rest if (value := points[name][0]) is not None}
                found.append(Family(axis, shared, points))
    works = list(dict.fromkeys(records["work"]))

    def place(family: Family) -> tuple[int, bool, int]:
        first: int = family.records["index"].min()  # type: ignore[assignment]
        return works.index(family.shared["work"]), family.axis not in ("batch", "threads"), first

    return sorted(found, key=place)


def fit(points: Mapping[int, float]) -> PowerLaw:
    """Return the power law through values by x, which ascends.

    Raises:
        ValueError: fewer than two points, or one that has no logarithm.
    """
    if len(points) < 2 or any(x <= 0 or y <= 0 for x, y in points.items()):
        raise ValueError(f"points: expected at least two, all above 0, got {dict(points)}")
    xs, ys = [math.log(x) for x in points], [math.log(y) for y in points.values()]
    exponent, intercept = statistics.linear_regression(xs, ys)
    off = max(abs(y - intercept - exponent * x) for x, y in zip(xs, ys, strict=True))
    return PowerLaw(exponent, math.exp(intercept), math.exp(off), (ys[-1] - ys[-2]) / (xs[-1] - xs[-2]))


def _described(case: Case) -> dict[str, Any]:
    """Return what tells a case from others; layers of one width are as wide as one number says."""
    found = asdict(case) | {"case": case.name, "shape": type(case).__name__}
    del found["name"]
    if hidden := found.get("hidden"):
        equal = len(set(hidden)) == 1
        found |= {"hidden": hidden[0] if equal else None, "widths": None if equal else " x ".join(map(str, hidden))}
    return found
