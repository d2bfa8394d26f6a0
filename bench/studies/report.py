"""Reports on a study: tables in Markdown between two marks, and a section of the page."""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from nfkern.bench.core.files import missing_for_page
from nfkern.bench.studies import records
from nfkern.bench.studies.charts import chart, colours_and_shapes
from nfkern.bench.studies.policies import Policy
from nfkern.bench.studies.records import StudyResults
from nfkern.bench.studies.summary import Cost, Measure, Row, Rows, Table, counted, front
from nfkern.errors import UserError, reason
from nfkern.host.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from nfkern.bench.report.page import Section

Results = TypeVar("Results", bound=StudyResults[Any])

BEGIN, END = "<!-- from the records: begin -->", "<!-- from the records: end -->"

QUICK = ("--quick",)
BANNER = "Made with --quick: a trial of the study itself. Its numbers mean nothing."


class Report(ABC, Generic[Results]):
    """A study's report: its declaration, and what follows from it."""

    name: ClassVar[str]
    """Of the command, behind `nfkern bench`."""
    title: ClassVar[str]
    introduction: ClassVar[str]
    caption: ClassVar[str]
    """How to read the charts."""
    kind: ClassVar[type[Any]]
    """Of the results."""
    policies: ClassVar[Mapping[str, Policy]]
    ours: ClassVar[tuple[str, ...]]
    """Names of nfkern's own policies, for which the verdicts say who is ahead."""
    presets: ClassVar[dict[tuple[str, ...], Any]]
    """Settings that the command has by itself, by the words which choose them."""
    options: ClassVar[Collection[str]]
    """Names of the command's options that are settings."""
    measure: ClassVar[Measure]
    better: ClassVar[str]
    """Comparative of the verdicts, such as "nearer to the density than"."""
    costs: ClassVar[tuple[Cost, Cost]]
    """Of the two charts of a condition."""

    @abstractmethod
    def rows(self, results: Results) -> Rows:
        """Return the numbers by condition and policy; only what has been measured."""

    @abstractmethod
    def line(self, results: Results, condition: str, rows: Mapping[str, Row]) -> float | None:
        """Return a value of the measure to which charts draw a dashed line."""

    @abstractmethod
    def described(self, results: Results) -> str:
        """Return how it was measured."""

    @abstractmethod
    def remarks(self, results: Results, condition: str, rows: Mapping[str, Row]) -> list[str]:
        """Return the sentences of the verdicts on a condition that stand behind those on who is ahead."""

    @abstractmethod
    def sections(self, results: Results, rows: Rows) -> list[tuple[str, str, list[Table]]]:
        """Return heading, text and tables of each part of the page."""

    @abstractmethod
    def tables(self, results: Results, rows: Rows) -> list[tuple[str, Table]]:
        """Return the tables of the document, with their titles."""

    def read(self, path: Path) -> Results:
        """Return the results of a file; raises as `records.read`."""
        results: Results = records.read(path, self.kind, f"nfkern bench {self.name}")
        return results

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
        """Return the policies of others that are better than `ours` by more than the seeds' spread."""
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

    def section(self, results: Results, file: str) -> "Section":
        """Return the study as a section of the page; `file` is where the results are from."""
        # Here, not above: pages need packages that measuring does not.
        from nfkern.bench.report.page import Part, Section

        rows = self.rows(results)
        names = [name for name in results.settings.policies if name not in results.skipped]
        policies = [f"{name}: {self.policies[name].summary}" for name in names]
        policies += [f"{name}: skipped, {reason}" for name, reason in results.skipped.items()]
        commit = f", at commit {results.environment.commit[:12]}" if results.environment.commit else ""
        texts = (
            self.introduction,
            self.caption,
            f"Measured on {self.described(results)}",
            f"Measure it again{commit}:",
        )
        looks = colours_and_shapes(self.policies, self.ours)
        parts = [
            Part(texts=texts, code=self.again(results)),
            Part("Who is ahead", items=self.verdicts(results)),
            Part("Policies", items=policies),
        ]
        for title, text, tables in self.sections(results, rows):
            some = rows.get(title, {})
            line = self.line(results, title, some) if some else None
            drawn = [chart(some, self.measure, cost, line, looks) for cost in self.costs if some]
            parts.append(Part(title, [text] if text else [], charts=drawn, tables=tables))
        origin = f"{results.counted()}, started {results.started}."
        return Section(file, self.title, origin, self.warnings(results), parts)

    def again(self, results: Results) -> str:
        """Return the command that makes the results again."""
        chosen = self._preset(results)
        words = ["nfkern", "bench", self.name, "--out", f"{self.name}.json", *chosen]
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
    """Refuse reports that could not be written in the end."""
    if html is not None and (missing := missing_for_page()):
        raise UserError(f"--html needs {missing}")
    if tables is not None:
        split_markdown(tables)


def write_reports(report: Report[Results], results: Results, out: Path, html: Path | None, tables: Path | None) -> None:
    """Write the page of the results of a file, and tables into a Markdown file, where they are wanted."""
    if html is not None:
        # Here, not above: pages need packages that measuring does not.
        from nfkern.bench.report.page import to_html

        write_text(html, to_html({}, [report.section(results, out.name)]))
        print(f"wrote {html}")
    if tables is not None:
        before, _, after = split_markdown(tables)
        write_text(tables, f"{before}{BEGIN}\n\n{report.to_markdown(results)}\n\n{END}{after}")
        print(f"wrote {tables}")


def split_markdown(path: Path) -> tuple[str, str, str]:
    """Return the text of a Markdown file before, between and after the marks.

    Raises:
        UserError: the file cannot be read, or the marks are not there, in order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from None
    before, begin, rest = text.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: expected a line {BEGIN} and after it a line {END}, to put the tables between")
    return before, between, after


def differing(one: "DataclassInstance", other: "DataclassInstance") -> list[str]:
    """Return the names of the settings that are not the same."""
    return [each.name for each in fields(one) if getattr(one, each.name) != getattr(other, each.name)]
