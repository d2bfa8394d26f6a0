"""Reports on a study: tables in Markdown between two marks, and a section of the page with verdicts and a picture."""

import base64
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from nfkern.bench.studies import records
from nfkern.bench.studies.policies import Policy
from nfkern.bench.studies.records import StudyResults
from nfkern.bench.studies.summary import Cost, Measure, Row, Rows, Table, counted, front
from nfkern.errors import UserError
from nfkern.host.files import write_text
from nfkern.page import table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Results = TypeVar("Results", bound=StudyResults[Any])

BEGIN, END = "<!-- from the records: begin -->", "<!-- from the records: end -->"

QUICK = ("--quick",)
BANNER = "Made with --quick: a trial of the study itself. Its numbers mean nothing."

PAGE_NEEDS = {"matplotlib": "log", "msgspec": "bench", "jinja2": "bench", "vl_convert": "bench"}
"""Packages without which there is no page, and the extra of each."""


@dataclass(frozen=True)
class Report(Generic[Results]):
    """Declaration of a study's report.

    Args:
        command, title, introduction: of the study.
        kind: of its results.
        policies: all that it knows.
        ours: names of nfkern's own, for which the verdicts say who is ahead.
        presets: settings that the command has by itself, by the words which choose them.
        options: names of the command's options that are settings.
        measure: of quality.
        better: the comparative of the verdicts, such as "nearer to the density than".
        costs: of the picture's two panels.
        caption: of the picture.
        rows: of the results.
        line: a value of the measure to which the picture draws a dashed line, by condition.
        described: how it was measured.
        remarks: sentences of the verdicts on a condition, which stand behind those on who is ahead.
        sections: of the page: heading, text and tables.
        tables: of the document, with their titles.
    """

    command: str
    title: str
    introduction: str
    kind: type[Results]
    policies: Mapping[str, Policy]
    ours: tuple[str, ...]
    presets: Mapping[tuple[str, ...], "DataclassInstance"]
    options: Collection[str]
    measure: Measure
    better: str
    costs: tuple[Cost, Cost]
    caption: str
    rows: Callable[[Results], Rows]
    line: Callable[[Results, str], float | None]
    described: Callable[[Results], str]
    remarks: Callable[[Results, str, Mapping[str, Row]], list[str]]
    sections: Callable[[Results, Rows], list[tuple[str, str, list[Table]]]]
    tables: Callable[[Results, Rows], list[tuple[str, Table]]]

    def read(self, path: Path) -> Results:
        """Return the results of a file; raises as `records.read`."""
        return records.read(path, self.kind, self.command)

    def verdicts(self, results: Results) -> list[str]:
        """Return for each condition a sentence on who is ahead of nfkern's own policies, and the remarks."""
        # One seed has no spread.
        one_seed = len(results.settings.seeds) == 1
        beyond = "by one seed, whose spread is not known" if one_seed else "beyond the seeds' spread"
        sentences = []
        for condition, rows in self.rows(results).items():
            for ours in self.ours:
                if ours in rows and rows[ours].spread(self.measure.name):
                    names = ", ".join(self.ahead(rows, ours)) or "no other policy"
                    sentences.append(f"{condition}: {self.better} {ours}, {beyond}: {names}.")
            sentences += [f"{condition}: {remark}" for remark in self.remarks(results, condition, rows)]
        return sentences

    def ahead(self, rows: Mapping[str, Row], ours: str) -> list[str]:
        """Return the policies of others that are better than `ours` by more than the seeds' spreads."""
        return self.measure.ahead(rows, ours, set(self.policies) - set(self.ours))

    def best(self, rows: Mapping[str, Row]) -> str:
        """Return the names of the policies to which none is preferable in both the first cost and the measure."""
        return ", ".join(front(self.measure.points(rows, self.costs[0].name)))

    def warnings(self, results: Results) -> list[str]:
        """Return what must be known before any number is read."""
        return [BANNER] if self._preset(results) == QUICK else []

    def to_markdown(self, results: Results) -> str:
        """Return the tables of the study's document."""
        parts = [f"**{warning}**" for warning in self.warnings(results)]
        parts.append(f"Measured on {self.described(results)}")
        for title, (head, rows) in self.tables(results, self.rows(results)):
            lines = [head, ["---"] * len(head), *rows]
            parts += [title, "\n".join("| " + " | ".join(line) + " |" for line in lines)]
        return "\n\n".join([*parts, "\n".join(f"- {sentence}" for sentence in self.verdicts(results))])

    def to_html(self, results: Results) -> str:
        """Return the study as a part of a page, below a heading of the second order and without the warnings."""
        # Here, not above: pictures need matplotlib, and measuring does not.
        from nfkern.bench.studies.picture import draw, styles

        rows = self.rows(results)
        names = [name for name in results.settings.policies if name not in results.skipped]
        policies = [f"<b>{escape(name)}</b>: {escape(self.policies[name].summary)}" for name in names]
        policies += [escape(f"{name}: skipped, {reason}") for name, reason in results.skipped.items()]
        parts = [f"<p>{escape(text)}</p>" for text in (self.introduction, self.described(results))]
        commit = f", at commit {escape(results.environment.commit[:12])}" if results.environment.commit else ""
        parts.append(f"<p>Measure it again{commit}: <code>{escape(self.again(results))}</code></p>")
        if rows:
            lines = {condition: self.line(results, condition) for condition in rows}
            image = draw(rows, lines, self.measure, self.costs, styles(self.policies, self.ours))
            source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
            parts.append(
                f'<figure><div class="scroll" tabindex="0"><img class="picture" alt="{escape(self.measure.label)} '
                f'against costs" src="{source}"></div><figcaption>{escape(self.caption)}</figcaption></figure>'
            )
        parts += [
            "<h3>Who is ahead</h3>",
            _items(map(escape, self.verdicts(results))),
            "<h3>Policies</h3>",
            _items(policies),
        ]
        for heading, text, tables in self.sections(results, rows):
            parts += [f"<h3>{escape(heading)}</h3>", f"<p>{escape(text)}</p>" if text else ""]
            parts += [table(head, lines) for head, lines in tables]
        return "\n".join(parts)

    def again(self, results: Results) -> str:
        """Return the command that makes the results again."""
        chosen = self._preset(results)
        *_, name = self.command.split()
        words = [*self.command.split(), "--out", f"{name}.json", *chosen]
        for option in differing(results.settings, self.presets[chosen]):
            if option in self.options:
                value = getattr(results.settings, option)
                # Seeds are counted from 0.
                values = [len(value)] if option == "seeds" else value if isinstance(value, tuple) else [value]
                words += ["--" + option.replace("_", "-"), *map(str, values)]
        return shlex.join(words)

    def _preset(self, results: Results) -> tuple[str, ...]:
        """Return the words of the preset from which the results differ least in settings that are no option."""

        def without_option(words: tuple[str, ...]) -> int:
            return len(set(differing(results.settings, self.presets[words])) - set(self.options))

        return min(self.presets, key=without_option)


def measured_on(results: StudyResults[Any], threads: int, versions: Sequence[str]) -> str:
    """Where and when, up to the first comma after the date."""
    environment = results.environment
    named = [f"{name} {environment.versions[name]}" for name in versions if name in environment.versions]
    parts = [environment.device_name, counted(threads, "thread"), *named]
    return ", ".join([*parts, f"commit {(environment.commit or 'unknown')[:12]}", results.started[:10]])


def check_reports(html: Path | None, tables: Path | None) -> None:
    """Refuse reports that could not be written in the end.

    Raises:
        UserError: a package is missing, or the Markdown file has no marks.
    """
    for name, extra in PAGE_NEEDS.items():
        if html is not None and find_spec(name) is None:
            raise UserError(f"--html needs the package {name}: `pip install 'nfkern[{extra}]'`")
    if tables is not None:
        split_markdown(tables)


def write_reports(results: Path, html: Path | None, tables: Path | None, markdown: Callable[[], str]) -> None:
    """Write the page of a file of results, and tables into a Markdown file, where they are wanted.

    Raises:
        UserError: as `split_markdown`.
    """
    if html is not None:
        # Here, not above: the page reads this module.
        from nfkern.bench.report.page import to_html

        write_text(html, to_html((results,)))
        print(f"wrote {html}")
    if tables is not None:
        before, _, after = split_markdown(tables)
        write_text(tables, f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{after}")
        print(f"wrote {tables}")


def split_markdown(path: Path) -> tuple[str, str, str]:
    """Return the text of a Markdown file before, between and after the marks.

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


def _items(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def differing(one: "DataclassInstance", other: "DataclassInstance") -> list[str]:
    """Return the names of the settings that are not the same."""
    return [each.name for each in fields(one) if getattr(one, each.name) != getattr(other, each.name)]
