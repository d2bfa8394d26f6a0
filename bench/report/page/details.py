"""Each row in full: every variant's quantiles with a bar, and the command that measures it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nfkern.bench.core.records import Record
from nfkern.bench.core.units import duration, size
from nfkern.bench.report.labels import is_ours, standing_note
from nfkern.bench.report.page.reproduction import reproduction
from nfkern.bench.report.page.rows import Timed
from nfkern.bench.report.page.tables import NOTHING, Cell, line, ratio, seconds, sortable, text
from nfkern.bench.works.training_runs import STEPS, TRAINING_RUNS

_COLUMNS = ("variant", "median", "", "p10", "p90", "p99", "p99.9", "ratio", "first call", "calls")


@dataclass(frozen=True)
class _Frame:
    """What a row's lines have in common: columns, records and times to compare with, and gradient steps of a call."""

    columns: Sequence[str]
    first: Record
    reference: float
    best: Record | None
    longest: float
    steps: int


def details(rows: Sequence[Timed], machines: Mapping[str, int]) -> str:
    """All rows, each to be opened.

    Args:
        rows: in their order.
        machines: numbers of the environments, by their text.
    """
    sections = "\n".join(_row(row, machines[str(row.first.environment)]) for row in rows)
    return f"""<p>Ratios say how many times faster than the row's first variant. Bars go from zero to the median, and
the line across a bar's end is the 10 to 90 % band. The bold variant is the fastest that does the whole job, at the
precision of the best peer or a higher one; where nothing does the same job, it is nfkern's own.
Memory is the most that a training step allocates beside model and batch, where it was measured.</p>
{sections}"""


def _row(row: Timed, machine: int) -> str:
    first = row.first
    parameters = f", {first.parameters:,} parameters" if first.parameters else ""
    measured = [record.quantiles for record in row.records if record.quantiles]
    with_memory = any(record.peak_bytes for record in row.records)
    steps = STEPS if first.work in [work.name for work in TRAINING_RUNS] else 0
    frame = _Frame(
        (*_COLUMNS, *(("steps a second",) if steps else ()), *(("memory",) if with_memory else ())),
        first,
        reference=measured[0].median_s if measured else 0.0,
        best=row.best,
        longest=max((each.p90_s for each in measured), default=0.0),
        steps=steps,
    )
    lines = [_line(record, frame) for record in row.records]
    best = f"<small>{_best(row)}</small>"
    return f"""<details id="{escape(row.anchor)}"><summary>{escape(row.title)}{best}</summary>
<p>{escape(first.mode)}{parameters}; machine {machine}, clock {escape(first.clock)}; {escape(row.file)}</p>
{sortable(frame.columns, lines)}
<p>{_again(row.records)}</p></details>"""


def _best(row: Timed) -> str:
    if row.best is None or row.best.quantiles is None:
        return "no number"
    time = duration(row.best.quantiles.median_s)
    return f"{time} at best" if row.peer else f"{time}, {escape(row.best.variant)}"


def _again(records: Sequence[Record]) -> str:
    found = reproduction(records)
    if found is None:
        return "No suite has this row any more."
    without = f" (without {', '.join(found.missing)}, which no suite has there any more)" if found.missing else ""
    further = f"; with what was not measured here: {', '.join(found.further)}" if found.further else ""
    commit = records[0].environment.commit
    at = f", at commit {commit[:12]}" if commit else ""
    return f"Measure it again{escape(at)}: <code>{escape(found.command)}</code>{escape(without + further)}"


def _line(record: Record, frame: _Frame) -> str:
    name = Cell(_name(record, frame.first))
    if record.quantiles is None:
        kind, reason = ("refused", record.error) if record.error else ("skipped", record.skipped)
        shown = f'<td class="note" colspan="{len(frame.columns) - 1}">{kind}: {escape(reason or "")}</td>'
        return f'<tr class="{kind}"><td>{name.html}</td>{shown}</tr>'
    q = record.quantiles
    cells = [name, seconds(q.median_s), _bar(record, frame.longest)]
    cells += [*map(seconds, (q.p10_s, q.p90_s, q.p99_s, q.p999_s)), ratio(frame.reference / q.median_s)]
    cells += [seconds(record.first_call_s), text(q.repeats)]
    if frame.steps:
        cells.append(Cell(f"{frame.steps / q.median_s:.1f}", frame.steps / q.median_s))
    if "memory" in frame.columns:
        cells.append(Cell(size(record.peak_bytes), record.peak_bytes) if record.peak_bytes else NOTHING)
    return line(cells, ' class="best"' if record is frame.best else "")


def _name(record: Record, first: Record) -> str:
    """A variant, and what sets it apart: precision, size, standing."""
    apart = [record.precision] if record.precision != "fp32" else []
    apart += [f"{record.parameters:,} parameters"] if record.parameters != first.parameters else []
    note = standing_note(record.variant)
    small = f" <small>{escape(', '.join(apart))}</small>" if apart else ""
    return f"{escape(record.variant)}{small}" + (f" <i>({escape(note)})</i>" if note else "")


def _bar(record: Record, longest: float) -> Cell:
    """From zero to the median, with the band as a line."""
    q = record.quantiles
    if q is None or longest <= 0:
        return NOTHING
    end, low, high = (140 * value / longest for value in (q.median_s, q.p10_s, q.p90_s))
    kind = "bar ours" if is_ours(record.variant) else "bar"
    return Cell(
        f'<svg viewBox="0 0 144 14" aria-hidden="true"><rect class="{kind}" y="1" width="{end:.1f}" height="12"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7"/></svg>',
        q.median_s,
    )
