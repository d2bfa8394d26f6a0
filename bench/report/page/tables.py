"""Tables that a reader can sort: what is shown, and beside it the raw value."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nfkern.bench.core.units import duration


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        html: what is shown.
        value: what the column is sorted by; without one, it is what is shown.
        kind: its class, if any.
    """

    html: str
    value: float | None = None
    kind: str = ""


NOTHING = Cell("")

# Columns of words, whose heads stand to the left as their cells do.
_WORDS = frozenset({"case", "variant", "commit", "versions", "backends", "file", "reason"})
_LEFT = ' class="words"'


def text(words: object, kind: str = "") -> Cell:
    """Words, or a number whose digits are all shown."""
    return Cell(escape(str(words)), words if isinstance(words, int) else None, kind)


def seconds(value: float | None, note: str = "") -> Cell:
    """A duration, with a word behind it."""
    if value is None:
        return NOTHING
    return Cell(escape(duration(value)) + (f" <small>{escape(note)}</small>" if note else ""), value)


def ratio(value: float | None, note: str = "") -> Cell:
    """A factor, with a word behind it."""
    if value is None:
        return NOTHING
    return Cell(f"{value:.2f}" + (f" <small>{escape(note)}</small>" if note else ""), value)


def line(cells: Sequence[Cell], attributes: str = "") -> str:
    """A row of a table; the first cell heads it."""
    return f"<tr{attributes}>{''.join(map(_cell, cells))}</tr>"


def sortable(head: Sequence[str], lines: Sequence[str], kind: str = "") -> str:
    """A table of `line`s that the page's script lets the reader sort; where it is too wide, it scrolls.

    Args:
        head: names of the columns.
        lines: rows.
        kind: more classes of the table.
    """
    names = "".join(f'<th scope="col"{_LEFT if name in _WORDS else ""}>{escape(name)}</th>' for name in head)
    classes = f"sortable {kind}".strip()
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table class="{classes}"><thead><tr>{names}</tr></thead><tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    kind = f' class="{cell.kind}"' if cell.kind else ""
    value = "" if cell.value is None else f' data-value="{cell.value:.9g}"'
    return f"<td{kind}{value}>{cell.html}</td>"
