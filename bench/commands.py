"""`nfkern bench run | list | report`."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from tqdm import tqdm

from nfkern.bench.core import records as storage
from nfkern.bench.core import timing
from nfkern.bench.core.declarations import Row, rows
from nfkern.bench.core.environment import Environment, current_environment, others_cpu_s
from nfkern.bench.core.files import check_writable, missing_for_page
from nfkern.bench.core.records import Record
from nfkern.bench.core.units import duration
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.report.labels import described
from nfkern.bench.report.rows import Timed, beside, timed_rows, verdict
from nfkern.bench.runner import measure
from nfkern.bench.suites import IN_WORDS, SUITES
from nfkern.errors import UserError, check_least, reason
from nfkern.host.files import write_text

Suite = Literal["smoke", "quick", "cpu", "causal", "control-loop", "scaling", "training", "full"]
_SUITE_HELP = "Which rows:\n" + ";\n".join(f"{name}: {text}" for name, text in IN_WORDS.items()) + "."
BUDGETS = {
    **dict.fromkeys(("quick", "cpu", "causal", "scaling"), timing.QUICK),
    **{"smoke": timing.SMOKE, "control-loop": timing.CONTROL, "training": timing.RUNS, "full": timing.FULL},
}
KINDS = {
    "run": ("benchmark records", {"work", "case", "batch", "variant"}),
    "quality": ("results of densities", {"settings", "latencies", "trials", "fits"}),
    "success": ("results in the simulator", {"settings", "latencies", "trainings", "evaluations"}),
}
"""By the command that makes them: files of results in words, and what only their first JSON object has."""
_BUSY = 0.1
# Without a bar: names, counts and what is being built fit into eighty columns.
PROGRESS = "{desc}{n_fmt} of {total_fmt} rows [{elapsed}<{remaining}{postfix}]"


@dataclass(frozen=True)
class Run:
    """Measure a suite: variants side by side, each only if its results are right.

    Rows are written to the file as they come; Ctrl-C keeps them, and --resume goes on. At the end it prints who is
    ahead in each row and which rivals were skipped, and writes a page beside the file. Exit code 1 if the correctness
    gate refused a number. Close other programs first: the suite measures whatever the machine is doing.
    """

    out: Path
    """File of the records, one JSON object a line."""
    suite: Annotated[Suite, tyro.conf.arg(help=_SUITE_HELP)] = "quick"
    device: str = "cpu"
    """cpu or cuda."""
    match: str = ""
    """Only rows whose name is or contains this, as in `inverse-ogbench-1-`; see `nfkern bench list`."""
    variants: tuple[str, ...] = ()
    """Only variants whose name contains one of these, and rows that have one."""
    threads: int | None = None
    """The most threads of a row; by default as many as the machine has cores."""
    resume: bool = False
    """Keep the rows that are already in the file."""
    overwrite: bool = False
    """Replace an existing file."""
    page: bool = True
    """Write the page of the file beside it: results.html of results.json."""

    def run(self) -> int:
        """Measure and write; 0, 1 if a number was refused, 130 if interrupted."""
        device = _device(self.device)
        environment = current_environment(device)
        check_least({"threads": self.threads})
        chosen = _chosen(self.suite, self.match, device, self.variants, self.threads)
        records = self._earlier(environment)
        # A row with a refused number or without a variant is measured again as a whole: its variants must take turns.
        pending = [wanted for row in chosen if (wanted := _unfinished(row, records))]
        page = self.page
        if pending:
            check_writable(self.out)
        if page and (missing := missing_for_page()):
            later = f"`nfkern bench report {self.out} --html PAGE` makes one later"
            print(f"no page will be written, which needs {missing}; {later}", flush=True)
            page = False
        start, others = time.perf_counter(), others_cpu_s()
        try:
            with tqdm(pending, bar_format=PROGRESS, disable=not pending) as progress:
                for row in progress:
                    progress.set_description(row.name)
                    found = measure(row, device, environment, BUDGETS[self.suite], progress.set_postfix_str)
                    # Earlier numbers of the row stay until there are new ones.
                    records = [record for record in records if record.row != row.name] + found
                    storage.write(self.out, records)
                    progress.write(_summary(row, found))
        except KeyboardInterrupt:
            print(f"interrupted; {self.out} has the finished rows: the same command with --resume goes on")
            return 130
        timed = timed_rows({self.out.name: records})
        busy = bool(pending) and _tell_if_busy(environment, time.perf_counter() - start, others)
        # How many times as fast is not told of what others have slowed down.
        disturbed = {row.name for row in pending} if busy else set()
        standings = (_standing(row, ratio=row.first.row not in disturbed) for row in timed)
        for line in (*standings, *beside(timed), verdict(timed)):
            print(line)
        print(f"{len(records)} records in {self.out}")
        if page:
            _write_page((self.out,), self.out.with_name(self.out.name.removesuffix(".json") + ".html"))
        refused = [record for record in records if record.error]
        for record in refused:
            print(f"refused: {record.key}: {record.error}")
        return 1 if refused else 0

    def _earlier(self, environment: Environment) -> list[Record]:
        if not self.out.exists() or self.overwrite:
            return []
        if not self.resume:
            raise UserError(f"{self.out} exists: add --resume to go on with it or --overwrite to replace it")
        records = storage.read(self.out)
        if any(record.environment != environment for record in records):
            raise UserError(
                f"{self.out} was measured elsewhere or with other versions, so its rows cannot be mixed with new ones: "
                "choose another --out or --overwrite it"
            )
        return records


@dataclass(frozen=True)
class List:
    """Print suites, their rows and the variants."""

    suite: Suite = "quick"
    """Which suite's rows."""

    def run(self) -> int:
        """Print; 0."""
        width = max(map(len, VARIANTS))
        print("suites:")
        for name, text in IN_WORDS.items():
            print(f"  {name:12}  {text}")
        print("studies, which train policies: nfkern bench quality, nfkern bench success")
        print(f"\nrows of {self.suite}:")
        for row in _chosen(self.suite, "", torch.device("cpu")):
            print(f"  {row.name}: {', '.join(variant.name for variant in row.variants)}")
        print("\nvariants:")
        for variant in VARIANTS.values():
            print(f"  {variant.name:{width}} {described(variant)}")
        return 0


@dataclass(frozen=True)
class Report:
    """Write results as one HTML page that opens without network: tables to sort, curves, and where nfkern loses.

    It takes files of `nfkern bench run`, `quality` and `success`, in any order, and knows them by what they hold.
    """

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Files of results."""
    html: Path
    """The page to write."""

    def run(self) -> int:
        """Write; 0."""
        if not self.files:
            raise UserError("FILES: expected at least one file of results")
        _write_page(self.files, self.html)
        return 0


def _write_page(files: Sequence[Path], html: Path) -> None:
    write_text(html, page_of(files))
    print(f"wrote {html}")


def page_of(paths: Sequence[Path]) -> str:
    """Return the page of files of any kind: records first, then study after study.

    Raises:
        UserError: a file cannot be read, is of no kind or holds nothing, or two are the same.
    """
    # Here, not above: the page needs packages that measuring does not.
    from nfkern.bench.report.page import Section, to_html

    names, records = _names(paths), {}
    sections: dict[str, list[Section]] = {"quality": [], "success": []}
    for path, name in names.items():
        if (kind := _kind(path)) == "run":
            records[name] = storage.read(path)
        elif kind == "quality":
            from nfkern.bench.studies.quality.report import REPORT as QUALITY

            sections[kind].append(QUALITY.section(QUALITY.read(path), name))
        else:
            from nfkern.bench.studies.success.report import REPORT as SUCCESS

            sections[kind].append(SUCCESS.section(SUCCESS.read(path), name))
    return to_html(records, [section for found in sections.values() for section in found])


def _kind(path: Path) -> str:
    """Return the command that has made a file, by the keys of its first JSON object."""
    makers = " or ".join(f"`nfkern bench {kind} --out {path}`" for kind in KINDS)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); make one with {makers}") from None
    if not text.strip():
        raise UserError(f"{path} holds no records: make some with {makers}, and --overwrite")
    try:
        found, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except ValueError:
        found = None
    for kind, (_, keys) in KINDS.items():
        if isinstance(found, dict) and keys <= found.keys():
            return kind
    known = " nor ".join(f"{name} (`nfkern bench {kind}`)" for kind, (name, _) in KINDS.items())
    raise UserError(f"{path}: is neither {known}")


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Files by name, with as many folders before it as tell them apart."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"files: expected different ones, got {', '.join(map(str, paths))}")

    def name(path: Path) -> str:
        for count in range(1, len(path.resolve().parts)):
            if sum(other.resolve().parts[-count:] == path.resolve().parts[-count:] for other in paths) == 1:
                return "/".join(path.resolve().parts[-count:])
        return str(path)

    return {path: name(path) for path in paths}


def _device(name: str) -> torch.device:
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device: expected cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    return torch.device(name)


def _chosen(
    suite: str, match: str, device: torch.device, variants: tuple[str, ...] = (), threads: int | None = None
) -> list[Row]:
    every = rows(SUITES[suite], WORKS, VARIANTS, threads or torch.get_num_threads())
    if device.type == "cuda":
        # The host's threads do nothing for a GPU: one row each.
        every = list({(row.work.name, row.case.name, row.batch): row for row in every}.values())
    # A whole name is that row's alone: threads_1 is a part of threads_16.
    found = [row for row in every if row.name == match] or [row for row in every if match in row.name]
    if not found:
        raise UserError(f"--match: no row of {suite} contains {match!r}; see `nfkern bench list --suite {suite}`")
    if variants:
        kept = [(row, tuple(v for v in row.variants if any(part in v.name for part in variants))) for row in found]
        found = [replace(row, variants=some) for row, some in kept if some]
        if not found:
            wanted = " or ".join(map(repr, variants))
            raise UserError(f"--variants: no variant of these rows contains {wanted}; see `nfkern bench list`")
    return found


def _unfinished(row: Row, records: list[Record]) -> Row | None:
    """The row with the variants that are wanted and those that the file has, or None if it has all that are wanted."""
    found = [record for record in records if record.row == row.name]
    if {variant.name for variant in row.variants} <= {record.variant for record in found if not record.error}:
        return None
    # The row's own come first and as declared: ratios refer to the first.
    names = dict.fromkeys([*(variant.name for variant in row.variants), *(record.variant for record in found)])
    return replace(row, variants=tuple(VARIANTS[name] for name in names if name in VARIANTS))


def _summary(row: Row, records: list[Record]) -> str:
    parts = [
        f"{record.variant} {duration(record.quantiles.median_s)}"
        if record.quantiles
        else f"{record.variant} {'refused' if record.error else 'skipped'}"
        for record in records
    ]
    return f"{row.name}: {', '.join(parts)}"


def _standing(row: Timed, ratio: bool) -> str:
    """Return a row's verdict, e.g. `ahead  inverse-ogbench-1-threads_1: nfkern 155 us, jax_jit 197 us (1.27x)`."""
    best = (each for each in (row.ours, row.peer) if each)
    shown = [f"{each.variant} {duration(each.quantiles.median_s)}" for each in best if each.quantiles]
    times = f" ({row.ratio:.2f}x)" if ratio and row.ratio else ""
    return f"{row.word:6} {row.first.row}: {', '.join(shown) or 'no number'}{times}"


def _tell_if_busy(environment: Environment, seconds: float, before: float | None) -> bool:
    """Name the machine and return True, if others kept more than a tenth of its processors busy meanwhile."""
    after = others_cpu_s()
    share = 0.0 if before is None or after is None else (after - before) / (seconds * (os.cpu_count() or 1))
    if share > _BUSY:
        name = environment.device_name
        print(f"{name} was busy: others took {share:.0%} of its processors. Measure again when it idles.")
    return share > _BUSY
