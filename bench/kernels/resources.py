"""`nfkern bench resources`: registers, spills and shared memory of every kernel, held against a budget, without a GPU.

A budget does not tell which of two launches within it is faster: that takes a measurement.
"""

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nfkern.bench.core.cases import CASES, CausalCase, FlowCase
from nfkern.bench.core.files import check_writable
from nfkern.bench.kernels.binaries import TARGETS, Usage, usage
from nfkern.bench.kernels.budget import BUDGETS, broken
from nfkern.bench.kernels.calls import Arithmetic, Calls, CausalCalls, CouplingCalls, ExampleCalls
from nfkern.bench.kernels.kernel_launches import Compilation, compilations
from nfkern.errors import UserError, check_least
from nfkern.host.progress import progress_bar
from nfkern.kernels.dispatch.triton_backend import TF32_ON_AMD

ARITHMETICS: tuple[Arithmetic, ...] = ("ieee", "tf32", "bf16")
SHAPES = ("ogbench", "ogbench_jax", "chunked", "widest", "causal")
ROWS = (1, 256, 600, 5000)
"""Numbers of rows that between them use every entry of both tables of launches."""


def chosen_calls(
    shapes: Sequence[str] = SHAPES, rows: Sequence[int] = ROWS, arithmetics: tuple[Arithmetic, ...] = ARITHMETICS
) -> Iterator[tuple[Calls, tuple[Arithmetic, ...]]]:
    """Yield the calls whose kernels are compiled: flows of these shapes, and every op's examples."""
    for case in map(CASES.__getitem__, shapes):
        for count in rows:
            if isinstance(case, FlowCase):
                yield CouplingCalls(case, count), arithmetics
                if case.name == shapes[0]:
                    # A bound changes as little in every shape.
                    yield CouplingCalls(case, count, bound=2.0), arithmetics
            elif isinstance(case, CausalCase):
                yield CausalCalls(case, count), arithmetics
                yield CausalCalls(case, count, prefix=True, bound=2.0), arithmetics
    yield from ((example, ("ieee",)) for example in ExampleCalls.of_all_ops())


def arithmetics_of(target: str) -> tuple[Arithmetic, ...]:
    """Return the arithmetics that a target has; without tf32 its kernels would be those of float32."""
    without = target.startswith("gfx") and target not in TF32_ON_AMD
    return tuple(each for each in ARITHMETICS if not (without and each == "tf32"))


@dataclass(frozen=True)
class Line:
    """A kernel's usage on a target, and the reasons for which it is over budget."""

    target: str
    compilation: Compilation
    usage: Usage
    broken: tuple[str, ...]


def measure(target: str, chosen: Sequence[Compilation], jobs: int) -> Iterator[Line]:
    """Compile for a target, in several processes."""
    # Spawned: a fork of a process in which torch runs threads may hang.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        found = pool.map(usage, chosen, [target] * len(chosen))
        for each, used in zip(chosen, found, strict=True):
            yield Line(target, each, used, broken(each, used, BUDGETS[target]))


@dataclass(frozen=True)
class Resources:
    """Compile every Triton kernel of the launch table and show what it uses; 1 if a budget is broken.

    Needs no GPU. The first time it takes some ten minutes a target on two cores; Triton keeps what it has compiled.
    """

    target: Literal["sm_80", "sm_90", "sm_100", "gfx942", "gfx1100", "all"] = "sm_90"
    """Architecture, or all five."""
    match: str = ""
    """Only kernels whose line in the table contains this, such as chunked or backward."""
    json: Path | None = None
    """Also write the table here."""
    jobs: int = 2
    """Compile in so many processes."""

    def run(self) -> int:
        """Print the table; 0, or 1 if a budget is broken."""
        check_least({"jobs": self.jobs})
        if self.json is not None:
            check_writable(self.json, "--json")
        lines: list[Line] = []
        for target in TARGETS if self.target == "all" else (self.target,):
            every = compilations(chosen_calls(arithmetics=arithmetics_of(target)), target)
            chosen = [each for each in every if self.match in title(each)]
            if not chosen:
                raise UserError(f"--match: no kernel's line contains {self.match!r}")
            measured = measure(target, chosen, self.jobs)
            found = list(progress_bar(iterable=measured, total=len(chosen), desc=target, unit="kernel"))
            print("\n".join(table(found)))
            lines += found
        if self.json is not None:
            self.json.write_text(json.dumps([_entry(line) for line in lines], indent=1) + "\n")
        over = [line for line in lines if line.broken]
        for line in over:
            print(f"over budget: {line.target} {title(line.compilation)}: {'; '.join(line.broken)}")
        print(f"{len(lines)} kernels compiled, {len(over)} over budget")
        return 1 if over else 0


def title(each: Compilation) -> str:
    """Kernel, mode, arithmetic, shape and launch in columns."""
    name = each.kernel.removesuffix("_kernel")
    return f"{name:22} {each.mode:32} {each.arithmetic:5} {each.case:24} {each.launch:18}"


def table(lines: Sequence[Line]) -> list[str]:
    """The lines with a head, one target's."""
    head = f"{'kernel':22} {'mode':32} {'arith':5} {'calls':24} {'launch':18}"
    return [
        f"{lines[0].target}\n{head}  regs stack spills  shared   FFMA  matrix",
        *(
            f"{title(line.compilation)} {u.registers:5} {u.stack:5} {u.spills:6} {u.shared:7} {u.multiply_adds:6}"
            f"  {u.matrix or '-'}{'  OVER BUDGET' if line.broken else ''}"
            for line in lines
            for u in (line.usage,)
        ),
    ]


def _entry(line: Line) -> dict[str, object]:
    each = line.compilation
    named = {"kernel": each.kernel, "mode": each.mode, "arithmetic": each.arithmetic, "case": each.case}
    return {"target": line.target, **named, "launch": each.launch, **asdict(line.usage), "broken": list(line.broken)}
