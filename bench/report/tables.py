"""`nfkern bench tables`: the tables of README.md, docs/ and `bench/results/README.md`, made from the records.

Numbers that people read come from files that a run has written, and a test keeps the two in agreement.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nfkern.bench.core import records as storage
from nfkern.bench.core.files import RESULTS
from nfkern.bench.core.records import Record, by_row
from nfkern.bench.core.units import duration
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.published import PUBLISHED, Table
from nfkern.errors import UserError

ROOT = RESULTS.parent.parent
_MOST_COLUMNS = 12


def listing(files: Mapping[str, Sequence[Record]]) -> str:
    """Every record of every file: medians, a table for each work and its variants."""
    return "\n".join(_listing(files))


def _listing(files: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    yield "# Recorded runs\n"
    yield "Medians of the records in this folder, written by `nfkern bench tables`. `nfkern bench report FILE --html"
    yield "page.html` shows quantiles, versions and commits; `nfkern bench list` says what the variants are.\n"
    for name, records in files.items():
        if not records:
            continue
        machines = sorted({f"{r.environment.device_name}, {r.environment.cores} cores" for r in records})
        dates = sorted(record.date[:10] for record in records)
        yield f"## {name}\n"
        yield f"{'; '.join(machines)}; {dates[0]} to {dates[-1]}.\n"
        for work in dict.fromkeys(record.work for record in records):
            yield from _work(work, [record for record in records if record.work == work])


def _work(work: str, records: Sequence[Record]) -> Iterator[str]:
    # As declared; the GPU check has variants of its own.
    variants = sorted(dict.fromkeys(record.variant for record in records), key=_place)
    lines = [["case, batch, threads", *variants]]
    for row in by_row(records).values():
        first = row[0]
        lines.append([f"{first.case}, {first.batch}, {first.threads}", *(_fastest(row, (name,)) for name in variants)])
    if len(lines) <= len(variants) > _MOST_COLUMNS:
        # A page is longer than wide.
        lines = [list(column) for column in zip(*lines, strict=True)]
    yield f"### {work}\n"
    yield _line(lines[0])
    yield "|---" * len(lines[0]) + "|"
    yield from map(_line, lines[1:])
    yield ""


def _place(variant: str) -> int:
    return list(VARIANTS).index(variant) if variant in VARIANTS else len(VARIANTS)


def _fastest(row: Sequence[Record], variants: Sequence[str]) -> str:
    times = [record.quantiles.median_s for record in row if record.variant in variants and record.quantiles]
    return duration(min(times)) if times else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def marks(name: str) -> tuple[str, str]:
    """The lines of a document between which a table stands."""
    return f"<!-- bench table {name}: begin -->\n", f"<!-- bench table {name}: end -->\n"


def _replaced(path: Path, text: str, name: str, table: Table) -> str:
    """A document's text with another table between the marks of this name."""
    begin, end = marks(name)
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise UserError(f"{path}: expected the lines {begin.strip()} and {end.strip()} around a table")
    lines = [_line(table[0]), "|---" * len(table[0]) + "|", *map(_line, table[1:])]
    return "".join([head, begin, *(f"{line}\n" for line in lines), end, tail])


@dataclass(frozen=True)
class Tables:
    """Write the tables of README.md, docs/ and bench/results/README.md from the records there, in a checkout."""

    check: bool = False
    """Write nothing; exit 1 if a table is not what the records say."""

    def run(self) -> int:
        """Write, or compare; 0, or 1 if a table differs."""
        if not (ROOT / "README.md").exists():
            raise UserError(f"there is no {ROOT / 'README.md'}: the tables belong to a checkout")
        files = {path.name: storage.read(path) for path in sorted(RESULTS.glob("*.json"))}
        wanted = {RESULTS / "README.md": listing(files)}
        for name, table in PUBLISHED.items():
            path = ROOT / table.document
            text = wanted.get(path) or path.read_text(encoding="utf-8")
            wanted[path] = _replaced(path, text, name, table.make(by_row(files[table.records])))
        code = 0
        for path, text in wanted.items():
            if path.exists() and path.read_text() == text:
                continue
            if self.check:
                print(f"{path} is not what the records say: nfkern bench tables")
                code = 1
            else:
                path.write_text(text)
                print(f"wrote {path}")
        return code
