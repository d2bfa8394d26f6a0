"""How time and memory grow with the batch and the size of the flow: pictures, and beside each the fitted exponents."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from nfkern.bench.core.records import Record
from nfkern.bench.core.units import duration, size
from nfkern.bench.report.page.plot import loglog, sample
from nfkern.bench.report.page.tables import Cell, line, sortable, text
from nfkern.bench.report.scaling import FEWEST, Family, Quantity, families, fit, median_s, peak_bytes

_COLUMNS = ("no.", "variant", "exponent", "last step", "off by", "range", "points", "at the end")
_LABELS = {"features": "features D", "hidden": "hidden width", "width": "hidden width", "tokens": "tokens T"}
_HIDDEN = ("work", "device", "cores", "shape", "norm_eps")


@dataclass(frozen=True)
class _Drawn:
    """A quantity that curves are drawn of: how it is read off a record, called in titles and at the axis, and said."""

    quantity: Quantity
    title: str
    label: str
    said: Callable[[float], str]

    def tick(self, value: float) -> str:
        """In words, without digits that say nothing: `10 us`."""
        number, unit = self.said(value).split()
        return f"{float(number):g} {unit}"


_DRAWN = (
    _Drawn(median_s, "", "time per call", duration),
    _Drawn(peak_bytes, ", memory", "memory at most", size),
)


def growth(files: Mapping[str, Sequence[Record]]) -> str:
    """A picture and a table for every family of records, file by file; says so where there is none."""
    parts = [
        part
        for file, records in files.items()
        for drawn in _DRAWN
        for part in _parts(records, drawn, file if len(files) > 1 else "")
    ]
    if not parts:
        return f"<p>No {FEWEST} records of a file differ in one axis only.</p>"
    return f"""<p>Median time per call on two logarithmic axes, for records that differ in one axis only; where it was
measured, the most memory that a training step allocates beside model and batch. The exponent is the slope of the line
of least squares through the logarithms of all points of a curve, in the range named: 1 is proportional, 0 constant.
Where a fixed cost is in sight there is no power law: then the slope between the last two points (last step) is another,
and the farthest point lies off the line by the factor named (off by). Variants with fewer than {FEWEST} points are left
out. Numbers at the curves are those of the table; thick lines with full marks are nfkern's own, thin ones peers, dashed
ones floors, dotted ones other functions.</p>
{"".join(parts)}"""


def _parts(records: Sequence[Record], drawn: _Drawn, file: str) -> Iterator[str]:
    """The first of several that differ only in what they share is open."""
    seen = set()
    for family in families(records, quantity=drawn.quantity):
        axis = _LABELS.get(family.axis, _words(family.axis))
        title = f"{family.shared['work']}{drawn.title} against {axis}"
        curves = {name: _values(curve, drawn) for name, curve in family.curves.items()}
        # As they lie at the end, from the top down.
        curves = dict(sorted(curves.items(), key=lambda curve: -curve[1][max(curve[1])]))
        lines = [_line(number, name, curve, drawn) for number, (name, curve) in enumerate(curves.items(), 1)]
        commits = {record.environment.commit for record in family.records}
        notes = [file] if file else []
        notes += [f"points of {len(commits)} commits"] if len(commits) > 1 else []
        if title not in seen:
            yield f"<h3>{escape(title)}</h3>\n"
        words = escape("; ".join([_shared(family), *notes]))
        yield (
            f"<details{'' if title in seen else ' open'}><summary>{words}</summary>"
            f'<div class="growth"><figure>{loglog(curves, (axis, drawn.label), drawn.tick)}</figure>'
            f"{sortable(_COLUMNS, lines, 'fits')}</div></details>\n"
        )
        seen.add(title)


def _values(curve: Mapping[int, Record], drawn: _Drawn) -> dict[int, float]:
    return {x: value for x, record in curve.items() if (value := drawn.quantity(record)) is not None}


def _line(number: int, name: str, curve: Mapping[int, float], drawn: _Drawn) -> str:
    law, end = fit(curve), curve[max(curve)]
    return line(
        [
            text(number),
            Cell(f"{sample(name)} {escape(name)}", kind="words"),
            Cell(f"{law.exponent:.2f}", law.exponent),
            Cell(f"{law.last:.2f}", law.last),
            Cell(f"{law.off:.2f}", law.off),
            Cell(f"{law.low:g} to {law.high:g}", law.high),
            text(law.points),
            Cell(escape(drawn.said(end)), end),
        ],
        f' data-curve="{escape(name)}"',
    )


def _shared(family: Family) -> str:
    """What all records have in common, by the case's name where it is the same flow throughout."""
    shared = {name: value for name, value in family.shared.items() if name not in _HIDDEN}
    if family.axis in ("batch", "threads"):
        # Several names may stand for one shape.
        case = Counter(record.case for record in family.records).most_common(1)[0][0]
        shared = {"case": case} | {name: shared[name] for name in ("batch", "threads") if name in shared}
    return ", ".join(f"{_words(name)} {_value(value)}" for name, value in shared.items())


def _words(field: str) -> str:
    return field.replace("_", " ")


def _value(value: Any) -> str:
    return " x ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
