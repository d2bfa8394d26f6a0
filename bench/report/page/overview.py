"""The overview, a line for every row, and where nfkern is behind, even, or has no number."""

import math
from collections import Counter
from collections.abc import Sequence
from html import escape

from nfkern.bench.core.records import Record
from nfkern.bench.report.labels import standing, standing_note
from nfkern.bench.report.page.reproduction import reproduction
from nfkern.bench.report.page.rows import EVEN, UNTUNED, Timed
from nfkern.bench.report.page.tables import NOTHING, Cell, line, ratio, seconds, sortable, text

_COLUMNS = (
    *("work", "case", "batch", "threads", "nfkern", "best peer", "ratio", "coarser"),
    *("floor", "to floor"),
)
_PERCENT = f"{EVEN:.0%}".replace("%", " %")


def overview(rows: Sequence[Timed]) -> str:
    """The first table; its lines lead to the rows' sections."""
    columns = (*_COLUMNS, "file") if rows[0].several else _COLUMNS
    lines = [_line(row) for row in rows]
    dates = sorted(record.date[:10] for row in rows for record in row.records)
    measured = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"""<p>{sum(len(row.records) for row in rows)} records of {len(rows)} rows, measured {measured}.</p>
<p>Medians of wall clock per call, measured in turns. <b>nfkern</b> is its fastest variant in the precision of the best
peer or a higher one, and <b>ratio</b> says how many times as long that peer takes; <b>coarser</b> is nfkern's fastest
in a lower precision, or to a tolerance, where that is faster still. Peers give the same results as nfkern. A floor is a
part of the job, done right or wrong; <b>to floor</b> says how many times as long nfkern takes, less than
once where its products are faster than torch.mm's, which gemm are. No time is shown without a green correctness
gate.</p>
{sortable(columns, lines, "filtered")}"""


def losses(rows: Sequence[Timed]) -> str:
    """What speaks against nfkern in these records."""
    words = Counter(row.word for row in rows)
    compared = len(rows) - words["alone"]
    behind = [row for row in rows if row.word == "behind"]
    even = [row for row in rows if row.word == "even"]
    if not compared:
        none = "None of these rows has both a peer, with nfkern's results, and nfkern: nobody is ahead or behind."
        return "\n".join([f"<p>{none} {_incomplete(rows)}</p>", _refused(rows), _other_functions(rows)])
    parts = [
        f"<p>Of {len(rows)} rows {compared} have both a peer and nfkern in the peer's precision or a higher one. There "
        f"nfkern is ahead in {words['ahead']}, even in {words['even']} and behind in {words['behind']}. Behind: the "
        "peer is faster by more than the noise, which is that each median lies outside the other's: where the medians "
        "of twenty parts of the measurement lie, but for the lowest and highest tenth (in older records single calls); "
        "of one or two calls it is unknown. "
        f"Even: not behind, and ahead by less than {_PERCENT} or by less than the noise. {_against_eager(rows)}"
        f"{_incomplete(rows)}</p>",
        _compared(
            "Behind a peer",
            [(row, row.ours) for row in behind],
            f"In none of {compared} rows is a peer faster by more than the noise.",
        ),
        _compared(
            "Behind a peer as a user calls it",
            [(row, row.called_behind) for row in rows if row.called_behind],
            "Nowhere else is a peer faster than the variant nfkern, which is neither frozen nor otherwise prepared, "
            "by however little.",
        ),
        _compared("Even", [(row, row.ours) for row in even], f"None of {compared} rows is even."),
        _refused(rows),
        _other_functions(rows),
    ]
    return "\n".join(parts)


def _against_eager(rows: Sequence[Timed]) -> str:
    """How many rows have no peer that anybody tuned."""
    count = sum(bool(row.peers) and {each.variant for each in row.peers} <= UNTUNED for row in rows)
    return f"In {count} of them eager PyTorch is all that nfkern was held against. " if count else ""


def _incomplete(rows: Sequence[Timed]) -> str:
    """How many rows lack variants, some of which might be ahead."""
    count = sum(bool((found := reproduction(row.records)) and found.further) for row in rows)
    if not count:
        return "All rows have every variant of their suite, or the reason why they lack it."
    return f"{count} rows lack variants of their suite, which may be faster: the command of each row names them."


def _line(row: Timed) -> str:
    first = row.first
    link = Cell(f'<a href="#{escape(row.anchor)}">{escape(first.work)}</a>')
    floor = row.floor
    above = _time(row.ours) / _time(floor) if row.ours and floor else None
    cells = [
        *(link, text(first.case, "words"), text(first.batch), text(first.threads)),
        *(_best(row.ours), _best(row.peer)),
        ratio(row.ratio, "" if row.word == "ahead" else row.word),
        *(_coarser(row.ours_coarser), _best(floor), ratio(above)),
        *([text(row.file, "words")] if row.several else []),
    ]
    found = " ".join([first.row.replace("-", " "), f"batch_{first.batch}", *(each.variant for each in row.records)])
    words = escape(f"{found} {row.file}".lower())
    return line(cells, f' class="{row.word}" data-row="{escape(row.anchor)}" data-words="{words}"')


def _compared(title: str, rows: Sequence[tuple[Timed, Record | None]], otherwise: str) -> str:
    """Rows, and the variant that is set beside their peer."""
    if not rows:
        return f"<h3>{title}</h3><p>{otherwise}</p>"
    head = ("row", "nfkern", "noise", "peer", "noise", "ratio")
    lines = [
        line([_link(row), *_banded(ours), *_banded(row.peer), ratio(_time(row.peer) / _time(ours))])
        for row, ours in rows
        if ours and row.peer
    ]
    return f"<h3>{title}</h3>{sortable(head, lines)}"


def _refused(rows: Sequence[Timed]) -> str:
    found = [(row, record) for row in rows for record in row.refused]
    if not found:
        return f"<h3>Refused</h3><p>No variant was refused a number in {len(rows)} rows.</p>"
    lines = [line([_link(row), text(each.variant, "words"), text(each.error, "long")]) for row, each in found]
    return f"<h3>Refused</h3>{sortable(('row', 'variant', 'reason'), lines)}"


def _other_functions(rows: Sequence[Timed]) -> str:
    found = [(row, record) for row in rows for record in row.other_functions_ahead]
    title = "<h3>Faster, but another function</h3>"
    if not found:
        return f"{title}<p>No variant that computes another function is faster than nfkern.</p>"
    head = ("row", "nfkern", "variant", "median", "note")
    lines = [
        line([_link(row), _best(row.ours), text(each.variant), _best(each), text(standing_note(each.variant))])
        for row, each in found
    ]
    return title + sortable(head, lines)


def _link(row: Timed) -> Cell:
    return Cell(f'<a href="#{escape(row.anchor)}">{escape(row.title)}</a>')


def _best(record: Record | None) -> Cell:
    return NOTHING if record is None else seconds(_time(record), record.variant)


def _coarser(record: Record | None) -> Cell:
    if record is None:
        return NOTHING
    note = record.variant if standing(record.variant) == "tolerance" else record.precision
    return seconds(_time(record), note)


def _banded(record: Record | None) -> list[Cell]:
    if record is None or record.quantiles is None:
        return [NOTHING, NOTHING]
    low, high = record.quantiles.noise_s
    if math.isinf(high):
        return [_best(record), text("unknown")]
    return [_best(record), Cell(f"{seconds(low).html} to {seconds(high).html}", low)]


def _time(record: Record) -> float:
    if record.quantiles is None:
        raise ValueError(f"record: {record.key} has no number")
    return record.quantiles.median_s
