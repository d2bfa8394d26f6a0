"""Benchmark records as the data of the page: text, numbers to sort by, and charts."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nfkern.bench.core.environment import Environment
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import FEWEST as FEWEST_CALLS
from nfkern.bench.core.units import duration, size
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report import charts
from nfkern.bench.report.labels import described, is_ours, standing, standing_note
from nfkern.bench.report.reproduction import reproduction
from nfkern.bench.report.rows import EVEN, UNTUNED, Timed, timed_rows, verdict
from nfkern.bench.report.scaling import FEWEST, Family, families, fit, median_s, peak_bytes
from nfkern.bench.works.training_runs import STEPS, TRAINING_RUNS

_OVERVIEW = ("work", "case", "batch", "threads", "verdict", "ratio", "nfkern", "best peer", "coarser", "floor")
_MACHINES = ("no.", "device", "cores", "commit", "versions", "backends", "clock", "measured", "rows")
_AXES = {"features": "features D", "hidden": "hidden width", "width": "hidden width", "tokens": "tokens T"}
_NOT_SHARED = ("work", "device", "cores", "shape", "norm_eps")


class Cell(NamedTuple):
    """One cell of a table."""

    text: object = ""
    # The column is sorted by it, or without one by the text.
    value: float | None = None
    note: str = ""
    kind: str = ""
    # An anchor of the page.
    link: str = ""
    # The length of a bar below the text, 0 to 1.
    share: float | None = None
    span: int = 1


class Line(NamedTuple):
    """A line of a table; `row` is the anchor of the details that a filter shows with it, `words` what it looks for."""

    cells: Sequence[Cell]
    kind: str = ""
    row: str = ""
    words: str = ""


class Table(NamedTuple):
    """A table that a reader can sort."""

    head: Sequence[str]
    lines: Sequence[Line]


def timings(files: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Return the template's data of all files."""
    rows = timed_rows(files)
    records = [record for row in rows for record in row.records]
    environments = list(dict.fromkeys(str(row.first.environment) for row in rows))
    compared = any(row.word != "alone" for row in rows)
    names = dict.fromkeys(record.variant for record in records)
    return {
        "verdict": verdict(rows),
        "leads": charts.leads(rows) if compared else "",
        "trial": all("tiny" in row.first.case for row in rows),
        "origin": f"{len(records)} records of {len(rows)} rows, measured {_days(records)}.",
        "incomplete": f"{_against_eager(rows)}{_incomplete(rows)}",
        "even": f"{EVEN:.0%}",
        "overview": Table(
            (*_OVERVIEW, "to floor", *(("file",) if rows[0].several else ())), [_overview_line(row) for row in rows]
        ),
        "behind": _beside_peer([(row, row.ours) for row in rows if row.word == "behind"]),
        "called": _beside_peer([(row, row.called_behind) for row in rows if row.called_behind]),
        "refused": Table(
            ("row", "variant", "reason"),
            [
                Line([_link(row), Cell(each.variant, kind="words"), Cell(each.error, kind="note")])
                for row in rows
                for each in row.refused
            ],
        ),
        "others": Table(
            ("row", "nfkern", "variant", "median", "note"),
            [
                Line([_link(row), _time(row.ours), Cell(each.variant), _time(each), Cell(standing_note(each.variant))])
                for row in rows
                for each in row.other_functions_ahead
            ],
        ),
        "fewest": FEWEST,
        "families": [
            _family(family, quantity, file if len(files) > 1 else "")
            for file, each in files.items()
            for quantity in _QUANTITIES
            for family in families(each, quantity=quantity.of)
        ],
        "machines": Table(_MACHINES, [_machine(number, name, rows) for number, name in enumerate(environments, 1)]),
        "variants": [(name, described(VARIANTS[name])) for name in names if name in VARIANTS],
        "rows": [_details(row, 1 + environments.index(str(row.first.environment))) for row in rows],
    }


def _overview_line(row: Timed) -> Line:
    first, ours, floor = row.first, row.ours, row.floor
    # A tolerance is the variant's own, a precision says enough.
    coarser = ""
    if row.ours_coarser and standing(row.ours_coarser.variant) != "tolerance":
        coarser = row.ours_coarser.precision
    above = row.seconds(ours) / row.seconds(floor) if ours and floor else None
    cells = [
        Cell(first.work, link=row.anchor),
        Cell(first.case, kind="words"),
        Cell(first.batch, first.batch),
        Cell(first.threads, first.threads),
        Cell("" if row.word == "alone" else row.word, kind="word"),
        _ratio(row.ratio),
        *(_time(ours), _time(row.peer)),
        _time(row.ours_coarser, coarser),
        *(_time(floor), _ratio(above)),
        *([Cell(row.file, kind="words")] if row.several else []),
    ]
    found = [first.row.replace("-", " "), f"batch_{first.batch}", row.word, *(each.variant for each in row.records)]
    return Line(cells, row.word, row.anchor, " ".join([*found, row.file]).lower())


def _beside_peer(found: Sequence[tuple[Timed, Record | None]]) -> Table:
    """Rows, and nfkern's variant beside the best peer, each with its noise."""
    lines = [
        Line(
            [
                _link(row),
                *(_time(ours), _noise(ours), _time(row.peer), _noise(row.peer)),
                _ratio(row.seconds(row.peer) / row.seconds(ours)),
            ]
        )
        for row, ours in found
        if ours and row.peer
    ]
    return Table(("row", "nfkern", "noise", "peer", "noise", "ratio"), lines)


def _against_eager(rows: Sequence[Timed]) -> str:
    """Say how many rows have no peer that anybody tuned."""
    count = sum(bool(row.peers) and {each.variant for each in row.peers} <= UNTUNED for row in rows)
    return f"In {count} of them eager PyTorch is the only peer. " if count else ""


def _incomplete(rows: Sequence[Timed]) -> str:
    """Say how many rows lack variants, some of which might be ahead."""
    count = sum(bool((found := reproduction(row.records)) and found.further) for row in rows)
    if not count:
        return "All rows have every variant of their suite, or the reason why they lack it."
    return f"{count} rows lack variants of their suite, which may be faster: the command of each row names them."


class _Quantity(NamedTuple):
    """A quantity with curves: how to read it off a record, its words in titles, its unit, and a value in words."""

    of: Callable[[Record], float | None]
    title: str
    unit: str
    said: Callable[[float], str]


_QUANTITIES = (_Quantity(median_s, "", "s", duration), _Quantity(peak_bytes, ", memory", "B", size))


def _family(family: Family, quantity: _Quantity, file: str) -> dict[str, Any]:
    axis = _AXES.get(family.axis, family.axis.replace("_", " "))
    curves = {
        name: {x: value for x, record in curve.items() if (value := quantity.of(record)) is not None}
        for name, curve in family.curves.items()
    }
    # As they lie at the end, from the top down.
    curves = dict(sorted(curves.items(), key=lambda curve: -curve[1][max(curve[1])]))
    commits = {record.environment.commit for record in family.records}
    notes = [*_shared(family), *([f"points of {len(commits)} commits"] if len(commits) > 1 else []), file]
    head = ("variant", "exponent", "last step", "off by", "range", "points", "at the end")
    return {
        "title": f"{family.shared['work']}{quantity.title} against {axis}",
        "shared": ", ".join(filter(None, notes)),
        "chart": charts.growth(curves, axis, quantity.unit),
        "fits": Table(head, [_fit_line(name, curve, quantity) for name, curve in curves.items()]),
    }


def _fit_line(name: str, curve: Mapping[int, float], quantity: _Quantity) -> Line:
    law, end = fit(curve), curve[max(curve)]
    numbers = [Cell(f"{each:.2f}", each) for each in (law.exponent, law.last, law.off)]
    span = Cell(f"{law.low:g} to {law.high:g}", law.high)
    return Line([Cell(name), *numbers, span, Cell(law.points, law.points), Cell(quantity.said(end), end)])


def _shared(family: Family) -> Iterator[str]:
    """Yield what all records have in common, by the case's name where it is the same flow throughout."""
    shared = {name: value for name, value in family.shared.items() if name not in _NOT_SHARED}
    if family.axis in ("batch", "threads"):
        # Several names may stand for one shape.
        case = Counter(record.case for record in family.records).most_common(1)[0][0]
        shared = {"case": case} | {name: shared[name] for name in ("batch", "threads") if name in shared}
    for name, value in shared.items():
        yield f"{name.replace('_', ' ')} {' x '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _machine(number: int, name: str, rows: Sequence[Timed]) -> Line:
    here = [row for row in rows if str(row.first.environment) == name]
    records = [record for row in here for record in row.records]
    environment = records[0].environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    commit, dirty, _ = (environment.commit or "unknown").partition("-dirty")
    words = (
        *(f"{environment.device_name} ({environment.device})", environment.cores),
        *(commit[:12] + (" with changes" if dirty else ""), versions, _backends(environment)),
        *("; ".join(dict.fromkeys(record.clock for record in records)), _days(records), len(here)),
    )
    return Line([Cell(number), *map(Cell, words)])


def _backends(environment: Environment) -> str:
    """Count the ops of the most common backend, and name those of others."""
    counts = Counter(environment.backends.values()).most_common()
    if not counts:
        return "none (0 ops)"
    (common, ops), *rest = counts
    others = [
        f"{name}: {', '.join(op for op, each in environment.backends.items() if each == name)}" for name, _ in rest
    ]
    return "; ".join([f"{common} ({ops} {'op' if ops == 1 else 'ops'})", *others])


def _details(row: Timed, machine: int) -> dict[str, Any]:
    """A row in full: every variant's quantiles, and the command that measures it again."""
    first, found = row.first, reproduction(row.records)
    times = [record.quantiles for record in row.records if record.quantiles]
    steps = STEPS if first.work in [work.name for work in TRAINING_RUNS] else 0
    memory = any(record.peak_bytes for record in row.records)
    head = ["variant", "median", "p10", "p90", "p99", "p99.9", "ratio", "first call", "calls"]
    head += [*(["steps a second"] if steps else []), *(["memory"] if memory else [])]
    longest, reference = max((each.median_s for each in times), default=0.0), times[0].median_s if times else 0.0

    def line(record: Record) -> Line:
        apart = [record.precision] if record.precision != "fp32" else []
        apart += [f"{record.parameters:,} parameters"] if record.parameters != first.parameters else []
        name = Cell(record.variant, note=", ".join([*apart, *filter(None, [standing_note(record.variant)])]))
        q = record.quantiles
        if q is None:
            kind, reason = ("refused", record.error) if record.error else ("skipped", record.skipped)
            return Line([name, Cell(f"{kind}: {reason}", kind="note", span=len(head) - 1)], kind)
        bar = "bar own" if is_ours(record.variant) else "bar"
        cells = [Cell(duration(q.median_s), q.median_s, kind=bar, share=q.median_s / longest)]
        cells += [*map(_seconds, (q.p10_s, q.p90_s, q.p99_s, q.p999_s)), _ratio(reference / q.median_s)]
        cells += [_seconds(record.first_call_s), Cell(q.repeats, q.repeats)]
        cells += [Cell(f"{steps / q.median_s:.1f}", steps / q.median_s)] if steps else []
        cells += [Cell(size(record.peak_bytes or 0), record.peak_bytes) if record.peak_bytes else Cell()] * memory
        return Line([name, *cells], "best" if record is row.best else "")

    parameters = f", {first.parameters:,} parameters" if first.parameters else ""
    commit = first.environment.commit
    without = found.missing if found else ()
    beside = f" (without {', '.join(without)}, which no suite has there any more)" if without else ""
    beside += f"; with what was not measured here: {', '.join(found.further)}" if found and found.further else ""
    return {
        "anchor": row.anchor,
        "title": row.title,
        "best": f"{duration(row.seconds(row.best))}, {row.best.variant}" if row.best else "no number",
        "origin": f"{first.mode}{parameters}; machine {machine}, clock {first.clock}; {row.file}",
        "table": Table(head, [line(record) for record in row.records]),
        "again": ("Measure it again" + (f", at commit {commit[:12]}" if commit else ""))
        if found
        else "No suite has this row any more.",
        "command": found.command if found else "",
        "beside": beside,
    }


def _days(records: Sequence[Record]) -> str:
    first, last = min(each.date[:10] for each in records), max(each.date[:10] for each in records)
    return first if first == last else f"{first} to {last}"


def _link(row: Timed) -> Cell:
    return Cell(row.title, link=row.anchor)


def _seconds(value: float | None) -> Cell:
    return Cell() if value is None else Cell(duration(value), value)


def _ratio(value: float | None) -> Cell:
    return Cell() if value is None else Cell(f"{value:.2f}", value)


def _time(record: Record | None, note: str = "") -> Cell:
    if record is None or record.quantiles is None:
        return Cell()
    return Cell(duration(record.quantiles.median_s), record.quantiles.median_s, note or record.variant)


def _noise(record: Record | None) -> Cell:
    if record is None or record.quantiles is None:
        return Cell()
    low, high = record.quantiles.noise_s
    if record.quantiles.repeats < FEWEST_CALLS:
        return Cell("unknown")
    return Cell(f"{duration(low)} to {duration(high)}", low)
