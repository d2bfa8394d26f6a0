"""Tables of a study as rows of text, and the marks in a Markdown file between which they are put."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nfkern.bench.core.environment import Environment
from nfkern.bench.studies.summary import Spread
from nfkern.errors import UserError

Table = tuple[list[str], list[list[str]]]
"""Head and rows."""

BEGIN, END = "<!-- from the records: begin -->", "<!-- from the records: end -->"


def to_markdown(introduction: str, tables: Iterable[tuple[str, Table]], sentences: Sequence[str]) -> str:
    """An introduction, tables under their titles, and a list of sentences."""
    parts = [introduction]
    for title, (head, rows) in tables:
        lines = [head, ["---"] * len(head), *rows]
        parts += [title, "\n".join("| " + " | ".join(line) + " |" for line in lines)]
    return "\n\n".join([*parts, "\n".join(f"- {sentence}" for sentence in sentences)])


def split_markdown(path: Path) -> tuple[str, str, str]:
    """What a Markdown file has before, between and after the marks.

    Raises:
        UserError: the file cannot be read, or the marks are not there, in order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    before, begin, rest = text.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: expected a line {BEGIN} and after it a line {END}, to put the tables between")
    return before, between, after


def update_markdown(path: Path, text: str) -> None:
    """Put text between the marks; raises as `split_markdown`."""
    before, _, after = split_markdown(path)
    path.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def write_reports(results: Path, html: Path | None, tables: Path | None, markdown: Callable[[], str]) -> None:
    """Write the page of a file of results, and tables into a Markdown file, where they are wanted.

    Raises:
        UserError: as `split_markdown`.
    """
    if html is not None:
        # Here, not above: pictures need matplotlib, and measuring does not.
        from nfkern.bench.report.page import to_html

        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(to_html((results,)), encoding="utf-8")
        print(f"wrote {html}")
    if tables is not None:
        update_markdown(tables, markdown())
        print(f"wrote {tables}")


def measured_on(environment: Environment, threads: int, started: str, versions: Sequence[str]) -> str:
    """Where and when, up to the first comma after the date."""
    named = [f"{name} {environment.versions[name]}" for name in versions if name in environment.versions]
    parts = [environment.device_name, counted(threads, "thread"), *named]
    return ", ".join([*parts, f"commit {(environment.commit or 'unknown')[:12]}", started[:10]])


def counted(count: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def spread(value: Spread | None, digits: int) -> str:
    """Mean and deviation, or nothing."""
    if value is None:
        return ""
    mean = f"{value.mean:.{digits}f}"
    return mean if value.deviation is None else f"{mean} ± {value.deviation:.{digits}f}"


def percent(value: Spread | None) -> str:
    """The mean in percent."""
    return "" if value is None else f"{100 * value.mean:.0f} %"
