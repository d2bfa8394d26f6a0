"""`nfkern bench tables`: the tables of README.md and of `bench/results/README.md`, made from the records.

Numbers that people read come from files that a run has written, and a test keeps the two in agreement.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nfkern.bench import records as storage
from nfkern.bench.records import Record, by_row
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report import duration
from nfkern.errors import UserError

# Resolved: nfkern/bench is a link in a checkout.
RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parent.parent / "README.md"
BEGIN, END = "<!-- bench tables: begin -->\n", "<!-- bench tables: end -->\n"

# README's table: its rows, and the variants of a column, of which the fastest is shown.
OVERVIEW_FILE = "cpu-2026-11-26.json"
OVERVIEW_ROWS = {
    "inverse, batch 1": "inverse-ogbench-1-threads_1",
    "denoised action, batch 1": "denoised_action-ogbench-1-threads_1",
    "inverse, batch 256": "inverse-ogbench-256-threads_1",
    "training step, batch 256": "training_step-ogbench-256-threads_1",
}
OVERVIEW_COLUMNS = {
    "eager": ("eager",),
    "torch.compile": ("eager_compile", "reference_compile", "reference_max_autotune"),
    "AOTInductor": ("reference_aot_inductor", "eager_plu_once_aot_inductor"),
    "ONNX Runtime": ("onnxruntime", "onnxruntime_one_sweep"),
    "JAX, jitted": ("jax_jit",),
    "nfkern": ("nfkern",),
    "frozen": ("nfkern_frozen",),
    "frozen, bf16": ("nfkern_frozen_bf16",),
}
# Of a single row reading the weights, of many the products.
OVERVIEW_FLOORS = {
    "inverse-ogbench-1-threads_1": ("weights_read",),
    "inverse-ogbench-256-threads_1": ("gemm",),
    "training_step-ogbench-256-threads_1": ("gemm",),
}

_MOST_COLUMNS = 12


def overview(records: Sequence[Record]) -> str:
    """README's table."""
    rows, lines = by_row(records), [_line(["the paper's flow", *OVERVIEW_COLUMNS, "floor"])]
    lines.append("|---" * (len(OVERVIEW_COLUMNS) + 2) + "|")
    for title, name in OVERVIEW_ROWS.items():
        columns = (*OVERVIEW_COLUMNS.values(), OVERVIEW_FLOORS.get(name, ()))
        lines.append(_line([title, *(_fastest(rows[name], variants) for variants in columns)]))
    return "".join(f"{line}\n" for line in lines)


def listing(files: Mapping[str, Sequence[Record]]) -> str:
    """Every record of every file: medians, a table for each work and its variants."""
    return "\n".join(_listing(files))


def _listing(files: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    yield "# Recorded runs\n"
    yield "Medians of the records in this folder, written by `nfkern bench tables`. `nfkern bench report FILE --html"
    yield "page.html` shows quantiles, versions and commits; `nfkern bench list` says what the variants are.\n"
    for name, records in files.items():
        machines = sorted({f"{r.environment.device_name}, {r.environment.cores} cores" for r in records})
        dates = sorted(record.date[:10] for record in records)
        yield f"## {name}\n"
        yield f"{'; '.join(machines)}; {dates[0]} to {dates[-1]}.\n"
        for work in dict.fromkeys(record.work for record in records):
            yield from _work(work, [record for record in records if record.work == work])


def _work(work: str, records: Sequence[Record]) -> Iterator[str]:
    variants = [name for name in VARIANTS if any(record.variant == name for record in records)]
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


def _fastest(row: Sequence[Record], variants: Sequence[str]) -> str:
    times = [record.quantiles.median_s for record in row if record.variant in variants and record.quantiles]
    return duration(min(times)) if times else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _replaced(text: str, table: str) -> str:
    """README's text with another table."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{README}: expected the lines {BEGIN.strip()} and {END.strip()} around its table")
    return f"{head}{BEGIN}{table}{END}{tail}"


@dataclass(frozen=True)
class Tables:
    """Write the tables of README.md and bench/results/README.md from the records there, in a checkout."""

    check: bool = False
    """Write nothing; exit 1 if a table is not what the records say."""

    def run(self) -> int:
        """Write, or compare; 0, or 1 if a table differs."""
        if not README.exists():
            raise UserError(f"there is no {README}: the tables belong to a checkout")
        files = {path.name: storage.read(path) for path in sorted(RESULTS.glob("*cpu-*.json"))}
        wanted: dict[Path, Callable[[], str]] = {
            README: lambda: _replaced(README.read_text(), overview(files[OVERVIEW_FILE])),
            RESULTS / "README.md": lambda: listing(files),
        }
        code = 0
        for path, make in wanted.items():
            text = make()
            if path.exists() and path.read_text() == text:
                continue
            if self.check:
                print(f"{path} is not what the records say: nfkern bench tables")
                code = 1
            else:
                path.write_text(text)
                print(f"wrote {path}")
        return code
