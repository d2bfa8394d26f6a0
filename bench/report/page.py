"""One HTML page of results that needs no network and no script: benchmark records, then sections made elsewhere."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from nfkern.bench.core.records import Record
from nfkern.bench.core.units import duration, size
from nfkern.bench.report.charts import svg
from nfkern.bench.report.labels import is_ours, standing, standing_note
from nfkern.bench.report.timings import apart, timings, words
from nfkern.page import page

_HERE = Path(__file__).parent
_TIMES = (
    ("overview", "Overview"),
    ("losses", "Where nfkern loses"),
    ("growth", "How time and memory grow"),
    ("machines", "Machines"),
    ("variants", "Variants"),
    ("rows", "Every row"),
)


@dataclass(frozen=True)
class Part:
    """A part of a section; what is empty is left out.

    Args:
        title: heading of the third order.
        texts: paragraphs.
        items: a list of sentences.
        code: a command.
        charts: Vega-Lite.
        tables: head and rows of each.
    """

    title: str = ""
    texts: Sequence[str] = ()
    items: Sequence[str] = ()
    code: str = ""
    charts: Sequence[dict[str, Any]] = ()
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]] = ()


@dataclass(frozen=True)
class Section:
    """One file's part of the page, such as a study's.

    Args:
        file: its name.
        title: heading of the second order; where two have the same, the file's name is added.
        origin: what the file has, and since when.
        banners: what must be known before any number is read.
        parts: in order.
    """

    file: str
    title: str
    origin: str
    banners: Sequence[str]
    parts: Sequence[Part]


def to_html(records: Mapping[str, Sequence[Record]], sections: Sequence[Section] = ()) -> str:
    """Return the page of benchmark records by file, and of sections."""
    titles = Counter(section.title for section in sections)
    headed = [
        (f"section-{number}", each.title if titles[each.title] == 1 else f"{each.title}, {each.file}", each)
        for number, each in enumerate(sections, 1)
    ]
    times = timings(records) if records else None
    banners = [f"{title}: {banner}" for _, title, section in headed for banner in section.banners]
    if times and times["trial"]:
        banners.append("All cases are tiny ones, which only try the suite out. Its numbers mean nothing.")
    contents = [*(_TIMES if times else ()), *((anchor, title) for anchor, title, _ in headed)]
    # Lines of a template's own are no part of the page.
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    used = (duration, size, words, apart, is_ours, standing, standing_note, svg)
    jinja.filters |= {each.__name__: each for each in used}
    body = jinja.from_string(_text("page.html")).render(
        times=times, sections=headed, banners=banners, contents=contents, infinite=math.inf
    )
    files = [*records, *(section.file for section in sections)]
    return page("nfkern benchmarks", body, f"made of {', '.join(files)}", _text("page.css"), _text("page.js"))


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
