"""`nfkern bench tables`: the tables of docs/records and `bench/results/README.md`, and README's chart.

Numbers that people read come from files that a run has written, and a test keeps the two in agreement.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from nfkern.bench.core.files import RESULTS
from nfkern.bench.core.units import duration
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.charts import bars
from nfkern.bench.report.frame import read
from nfkern.bench.report.published import OURS, PARTS, PUBLISHED, SPEED
from nfkern.errors import UserError

ROOT = RESULTS.parent.parent
_MARKED = re.compile(r"(<!-- bench table (\w+) of (\S+): begin -->\n)(.*?)(<!-- bench table \2: end -->\n)", re.DOTALL)
_CHART = re.compile(r"<!-- bench chart of (\S+) -->\n!\[[^\]]*\]\((\S+)\)")
_INTRODUCTION = """# Recorded runs

Medians of the records in this folder, written by `nfkern bench tables`. `nfkern bench report FILE --html
page.html` shows quantiles, versions and commits; `nfkern bench list` says what the variants are.
"""
_MOST_COLUMNS = 12


def listing(records: pl.DataFrame) -> str:
    """Return the medians of every record of every file: a table for each work and its variants."""
    parts = [_INTRODUCTION]
    for group in records.partition_by("file"):
        machines = sorted(set(group.select(pl.format("{}, {} cores", "device_name", "cores")).to_series()))
        dates = sorted(group["date"].str.head(10))
        parts.append(f"## {group['file'][0]}\n\n{'; '.join(machines)}; {dates[0]} to {dates[-1]}.\n")
        parts += [_work(each) for each in group.partition_by("work")]
    return "\n".join(parts)


def _work(records: pl.DataFrame) -> str:
    index = pl.format("{}, {}, {}", "case", "batch", "threads").alias("case, batch, threads")
    text = pl.col("median_s").map_elements(duration, pl.String, skip_nulls=True)
    found = records.select(index, "variant", text).pivot(on="variant", values="median_s", aggregate_function="first")
    # As declared; the GPU check has variants of its own.
    known = [name for name in VARIANTS if name in found.columns]
    found = found.select(index.meta.output_name(), *known, pl.exclude(index.meta.output_name(), *known))
    lines = [found.columns, *([cell or "" for cell in line] for line in found.iter_rows())]
    if len(lines) < len(found.columns) > _MOST_COLUMNS + 1:
        # A page is longer than wide.
        lines = [list(column) for column in zip(*lines, strict=True)]
    return f"### {records['work'][0]}\n\n{_markdown(lines)}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = ("| " + " | ".join(line) + " |\n" for line in lines)
    return "".join([head, "|---" * len(lines[0]) + "|\n", *rows])


def _filled(text: str, records: pl.DataFrame) -> str:
    """Return a document's text with tables of the records between its marks."""

    def fill(found: re.Match[str]) -> str:
        begin, name, file, _, end = found.groups()
        of_file = records.filter(pl.col("file") == file)
        if name not in PUBLISHED or of_file.is_empty():
            raise UserError(
                f"bench table {name} of {file}: expected one of {', '.join(PUBLISHED)}, of a file of records"
            )
        return begin + _markdown(PUBLISHED[name].table(of_file)) + end

    return _MARKED.sub(fill, text)


def _chart(records: pl.DataFrame) -> str:
    found = SPEED.fastest(records)
    times = {
        job: {column: cell[0]["median_s"] for column, cell in columns.items() if cell and cell[0]}
        for job, columns in found.items()
    }
    return bars(times, OURS, PARTS)


@dataclass(frozen=True)
class Tables:
    """Write the tables of docs/records and bench/results/README.md, and README's chart, from a checkout's records."""

    check: bool = False
    """Write nothing; exit 1 if a table is not what the records say."""

    def run(self) -> int:
        """Write, or compare; 0, or 1 if a table differs."""
        if not (ROOT / "README.md").exists():
            raise UserError(f"there is no {ROOT / 'README.md'}: the tables belong to a checkout")
        records = read(RESULTS)
        texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))}
        shown = {found[2] for text in texts.values() for found in _MARKED.finditer(text)}
        if missing := PUBLISHED.keys() - shown:
            raise UserError(
                f"no document has a table {', '.join(sorted(missing))}: expected the lines "
                "<!-- bench table NAME of FILE: begin --> and <!-- bench table NAME: end --> around it"
            )
        wanted = {path: _filled(text, records) for path, text in texts.items()}
        wanted[RESULTS / "README.md"] = listing(records)
        for path, text in texts.items():
            for file, picture in _CHART.findall(text):
                wanted[path.parent / picture] = _chart(records.filter(pl.col("file") == file))
        code = 0
        for path, text in wanted.items():
            if path.exists() and path.read_text(encoding="utf-8") == text:
                continue
            if self.check:
                print(f"{path} is not what the records say: nfkern bench tables")
                code = 1
            else:
                path.write_text(text, encoding="utf-8")
                print(f"wrote {path}")
        return code
