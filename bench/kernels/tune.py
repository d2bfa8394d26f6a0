"""`make gpu-tune`: times launches of the Triton kernels on this machine's GPU and prints the table of the best.

Needs torch, triton and numpy only. `nfkern bench tune` is the same.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from nfkern.acting.cuda_graphs import Tensors, capture_cuda
from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.kernels import calls
from nfkern.bench.kernels.binaries import usage_here
from nfkern.bench.kernels.budget import BUDGETS, broken
from nfkern.bench.kernels.calls import CouplingCalls, ops
from nfkern.bench.kernels.gpu_check import graph_seconds
from nfkern.bench.kernels.kernel_launches import Compilation, compilations, target_of
from nfkern.errors import UserError
from nfkern.kernels.coupling import triton_backward_kernels as backward_kernels
from nfkern.kernels.coupling import triton_kernels, triton_launch, triton_step_kernels
from nfkern.kernels.coupling.triton_launch import LAUNCHES, MANY, Arithmetic, LaunchConfig

Table = dict[tuple[str, Arithmetic], tuple[tuple[int, LaunchConfig], ...]]
Timer = Callable[[LaunchConfig], float]
"""Returns a launch's device seconds."""
Prepare = Callable[[Sequence[LaunchConfig]], Mapping[LaunchConfig, str]]
"""Compiles launches; returns those that cannot be used, with the reason."""

MOST_ROWS = 4096
"""Rows that entries without a limit are tuned for."""
GAIN = 0.03
"""A neighbour must be so much faster, relative, to be taken: less is noise."""
MOST_PROCESSES = 16
"""Each takes some 0.5 GB of the device for its context."""


@dataclass(frozen=True)
class Tune:
    """Time the launch table's neighbourhood on this GPU and print the fastest table as Python source.

    From each entry it walks to a neighbour (one setting doubled or halved) as long as that is faster, over launches
    that keep the budget of `nfkern bench resources`. All neighbours are compiled at once, on all cores. What is timed
    is kept in a file, and the same command goes on from there.
    """

    case: str = "ogbench"
    """The flow whose shape is used."""
    match: str = ""
    """Only entries whose name contains this, as in "step, half, 64 rows"; the others stay as they are."""
    device: str = "cuda"
    """A CUDA or ROCm device."""
    timings: Path = Path("build/gpu-tune.jsonl")
    """File of what is timed, one launch a line; a file of other code, another case or another device is not for it."""

    def run(self) -> int:
        """Print the table; 0."""
        case = CASES.get(self.case)
        if not isinstance(case, FlowCase):
            flows = ", ".join(name for name, each in CASES.items() if isinstance(each, FlowCase))
            raise UserError(f"--case: expected one of {flows}, got {self.case!r}")
        chosen = [each for each in entries() if self.match in each.name]
        if not chosen:
            names = "; ".join(each.name for each in entries())
            raise UserError(f"--match: expected a part of one of {names}, got {self.match!r}")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise UserError(f"--device: expected a device of PyTorch's such as cuda, got {self.device!r}") from error
        if device.type != "cuda" or not torch.cuda.is_available():
            raise UserError(
                f"--device {self.device}: launches are timed on a GPU, and PyTorch finds none here; what they use can "
                "be seen without one: `nfkern bench resources`"
            )
        known = Timings(
            self.timings, {"case": case.name, "device": torch.cuda.get_device_name(device), "code": _code()}
        )
        processes = min(MOST_PROCESSES, os.cpu_count() or 1)
        # Spawned: a fork of a process that has a CUDA context cannot use it.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            print(source(tuned(chosen, known, *_on_gpu(case, device, pool))))
        return 0


@dataclass(frozen=True)
class Entry:
    """An entry of the launch table.

    Attributes:
        kernel, arithmetic: its key.
        limit: rows up to which it is used.
        launch: what the table has.
    """

    kernel: str
    arithmetic: Arithmetic
    limit: int
    launch: LaunchConfig

    @property
    def rows(self) -> int:
        """Return the rows that it is tuned for."""
        return min(self.limit, MOST_ROWS)

    @property
    def name(self) -> str:
        """Return its name, as in "step, half, 64 rows"."""
        return f"{self.kernel}, {self.arithmetic}, {self.rows} rows"


def entries() -> list[Entry]:
    """Return the launch table's entries."""
    return [Entry(*key, *each) for key, found in LAUNCHES.items() for each in found]


class Timings:
    """Seconds of launches in a file, one JSON object a line; infinite for those that cannot be used.

    Args:
        path: the file; its folder is made.
        made_of: what the seconds depend on beside entry and launch; lines made of something else are left alone.
    """

    def __init__(self, path: Path, made_of: Mapping[str, str]) -> None:
        self._path, self._made_of = path, dict(made_of)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._seconds: dict[tuple[str, LaunchConfig], float] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                found = json.loads(line)
            except ValueError:
                # The last line of a run that was stopped while it wrote.
                continue
            if {name: found.get(name) for name in self._made_of} == self._made_of:
                seconds = math.inf if found["seconds"] is None else found["seconds"]
                self._seconds[found["entry"], LaunchConfig(**found["launch"])] = seconds

    def of(self, entry: str) -> dict[LaunchConfig, float]:
        """Return the seconds of an entry's launches."""
        return {launch: seconds for (name, launch), seconds in self._seconds.items() if name == entry}

    def add(self, entry: str, launch: LaunchConfig, seconds: float, why: str = "") -> None:
        """Keep a launch's seconds, or why it cannot be used; and print them."""
        finite = math.isfinite(seconds)
        line = {"entry": entry, "launch": asdict(launch), "seconds": seconds if finite else None, "why": why}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(self._made_of | line) + "\n")
        self._seconds[entry, launch] = seconds
        print(f"  {launch}: {f'{seconds * 1e6:.1f} us' if finite else why}", flush=True)


def tuned(
    chosen: Iterable[Entry],
    known: Timings,
    timer: Callable[[Entry], Timer],
    prepare: Callable[[Entry], Prepare],
) -> Table:
    """The launch table with the chosen entries replaced by the fastest that was found."""
    found = {}
    for entry in chosen:
        print(entry.name, flush=True)
        found[entry] = search(entry, known, timer(entry), prepare(entry))
        print(f"{entry.name}: {found[entry]}", flush=True)
    table: Table = {}
    for entry in entries():
        key = (entry.kernel, entry.arithmetic)
        table[key] = (*table.get(key, ()), (entry.limit, found.get(entry, entry.launch)))
    return table


def search(entry: Entry, known: Timings, seconds: Timer, prepare: Prepare) -> LaunchConfig:
    """Walk from neighbour to faster neighbour; every launch is timed once, and one that fails is left out."""

    def take(launches: Sequence[LaunchConfig]) -> None:
        new = [launch for launch in launches if launch not in known.of(entry.name)]
        reasons = prepare(new) if new else {}
        for launch in new:
            why, taken = reasons.get(launch, ""), math.inf
            if not why:
                try:
                    taken = seconds(launch)
                except Exception as error:
                    why = _in_a_line(error)
            known.add(entry.name, launch, taken, why)

    best = entry.launch
    take([best])
    while True:
        take(list(neighbours(best)))
        times = known.of(entry.name)
        fastest = min(times, key=times.__getitem__)
        # Written so that a walk among launches that all break ends.
        if times[fastest] >= times[best] * (1 - GAIN):
            return best
        best = fastest


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def neighbours(launch: LaunchConfig) -> Iterator[LaunchConfig]:
    """One setting doubled or halved, or one stage more or less."""
    least = {"tile": 16, "chunk1": 16, "chunk2": 16, "warps": 1}
    for name, lower in least.items():
        value = getattr(launch, name)
        for changed in (value // 2, value * 2):
            if changed >= lower and not (name == "warps" and changed > 16):
                yield replace(launch, **{name: changed})
    for stages in (launch.stages - 1, launch.stages + 1):
        if 1 <= stages <= 4:
            yield replace(launch, stages=stages)


def source(table: Table) -> str:
    """The table as Python source, to be pasted into `triton_launch.py`."""
    lines = ["LAUNCHES: dict[tuple[str, Arithmetic], tuple[tuple[int, LaunchConfig], ...]] = {"]
    for (kernel, arithmetic), entries in table.items():
        parts = []
        for limit, launch in entries:
            settings = [str(getattr(launch, field.name)) for field in fields(launch)]
            # The number of stages has a default.
            given = settings if launch.stages != LaunchConfig.stages else settings[:-1]
            parts.append(f"({'MANY' if limit == MANY else limit}, LaunchConfig({', '.join(given)}))")
        lines.append(f'    ("{kernel}", "{arithmetic}"): ({", ".join(parts)}{"," if len(parts) == 1 else ""}),')
    return "\n".join([*lines, "}"])


@contextmanager
def launched(kernel: str, arithmetic: Arithmetic, launch: LaunchConfig, step_rows: int) -> Iterator[None]:
    """Use a launch for every number of rows inside the context, and the flow kernel above `step_rows` rows."""
    before, rows_before = LAUNCHES[kernel, arithmetic], triton_launch.STEP_ROWS
    LAUNCHES[kernel, arithmetic], triton_launch.STEP_ROWS = ((MANY, launch),), step_rows
    try:
        yield
    finally:
        LAUNCHES[kernel, arithmetic], triton_launch.STEP_ROWS = before, rows_before


def _calls(case: FlowCase, entry: Entry) -> tuple[CouplingCalls, calls.Arithmetic]:
    """Return what an entry of the table is tuned on: both maps, and for the step kernels the derivatives, too."""
    parts = () if entry.kernel == "flow" else ("derivatives",)
    return CouplingCalls(case, entry.rows, parts=parts), "bf16" if entry.arithmetic == "half" else entry.arithmetic


def _on_gpu(
    case: FlowCase, device: torch.device, pool: Executor
) -> tuple[Callable[[Entry], Timer], Callable[[Entry], Prepare]]:
    """Return how launches of an entry are timed, and how they are compiled before."""
    target = target_of(device)

    def launches_as(entry: Entry, launch: LaunchConfig) -> AbstractContextManager[None]:
        return launched(entry.kernel, entry.arithmetic, launch, 0 if entry.kernel == "flow" else MANY)

    def timer(entry: Entry) -> Timer:
        chosen, precision = _calls(case, entry)
        inputs = chosen.inputs(device)

        def work(x: torch.Tensor) -> Tensors:
            return tuple(chosen.run(ops, inputs._replace(x=x), precision).found.values())

        def seconds(launch: LaunchConfig) -> float:
            with launches_as(entry, launch):
                return graph_seconds(work, [(inputs.x,), (inputs.x.flip(0),)], device, capture_cuda)

        return seconds

    def prepare(entry: Entry) -> Prepare:
        chosen, precision = _calls(case, entry)

        def kernels(launch: LaunchConfig) -> list[Compilation]:
            with launches_as(entry, launch):
                return list(compilations([(chosen, (precision,))], target))

        return lambda launches: compiled({launch: kernels(launch) for launch in launches}, entry, target, pool)

    return timer, prepare


def compiled(
    kernels: Mapping[LaunchConfig, Sequence[Compilation]], entry: Entry, target: str, pool: Executor
) -> dict[LaunchConfig, str]:
    """Compile the kernels of launches at once, each once; return the launches over budget or that do not compile."""
    different = {each.key: each for found in kernels.values() for each in found}
    tasks = {key: pool.submit(usage_here, each) for key, each in different.items()}
    reasons = {}
    for launch, found in kernels.items():
        for each in found:
            try:
                used = tasks[each.key].result()
            except Exception as error:
                reasons[launch] = _in_a_line(error)
                break
            tunable = each.products and each.kernel.startswith("flow") == (entry.kernel == "flow")
            # What is in use is timed whatever it uses. Where the target has no budget, the launcher finds out.
            judged = launch != entry.launch and tunable and target in BUDGETS
            if judged and (over := broken(each, used, BUDGETS[target])):
                reasons[launch] = "; ".join(over)
                break
    return reasons


def _code() -> str:
    """Return a digest of the device code."""
    every = (triton_kernels.flow_kernel, triton_step_kernels.forward_step_kernel, backward_kernels.backward_step_kernel)
    return hashlib.sha256("".join(each.cache_key for each in every).encode()).hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run with the options of `Tune`, whose parser may not be installed; 2 if one of them is wrong."""
    parser = argparse.ArgumentParser(prog="python -m nfkern.bench.kernels.tune", description=Tune.__doc__)
    for field in fields(Tune):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    try:
        return Tune(**vars(parser.parse_args(arguments))).run()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
