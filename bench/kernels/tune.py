"""`nfkern bench tune`: times launches of the Triton kernels on this machine's GPU and prints the table of the best."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch

from nfkern.acting.cuda_graphs import Tensors, capture_cuda
from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.kernels import calls
from nfkern.bench.kernels.binaries import TARGETS, usage
from nfkern.bench.kernels.calls import CouplingCalls, ops
from nfkern.bench.kernels.gpu_check import graph_seconds
from nfkern.bench.kernels.kernel_launches import compilations, target_of
from nfkern.bench.kernels.resources import BUDGETS, broken
from nfkern.errors import UserError
from nfkern.kernels.coupling import triton_launch
from nfkern.kernels.coupling.triton_launch import LAUNCHES, MANY, Arithmetic, LaunchConfig

Table = dict[tuple[str, Arithmetic], tuple[tuple[int, LaunchConfig], ...]]
MOST_ROWS = 4096
"""Rows that entries without a limit are tuned for."""
GAIN = 0.03
"""A neighbour must be so much faster, relative, to be taken: less is noise."""


@dataclass(frozen=True)
class Tune:
    """Time the launch table's neighbourhood on this GPU and print the fastest table as Python source.

    From each entry it walks to a neighbour (one setting doubled or halved) as long as that is faster, over launches
    that keep the budget of `nfkern bench resources`. Minutes for each entry.
    """

    case: str = "ogbench"
    """The flow whose shape is used."""
    device: str = "cuda"
    """A CUDA or ROCm device."""

    def run(self) -> int:
        """Print the table; 0."""
        case = CASES.get(self.case)
        if not isinstance(case, FlowCase):
            flows = ", ".join(name for name, each in CASES.items() if isinstance(each, FlowCase))
            raise UserError(f"--case: expected one of {flows}, got {self.case!r}")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise UserError(f"--device: expected a device of PyTorch's such as cuda, got {self.device!r}") from error
        if device.type != "cuda" or not torch.cuda.is_available():
            raise UserError(
                f"--device {self.device}: launches are timed on a GPU, and PyTorch finds none here; what they use can "
                "be seen without one: `nfkern bench resources`"
            )
        print(source(tuned(case, device)))
        return 0


def tuned(case: FlowCase, device: torch.device) -> Table:
    """The launch table with every entry replaced by the fastest that was found."""
    table: Table = {}
    for (kernel, arithmetic), entries in LAUNCHES.items():
        found = []
        for limit, launch in entries:
            rows = min(limit, MOST_ROWS)
            timer, fits = _timer(case, kernel, arithmetic, rows, device), _fits(case, kernel, arithmetic, rows, device)
            found.append((limit, search(launch, timer, fits)))
            print(f"{kernel}, {arithmetic}, {rows} rows: {found[-1][1]}", flush=True)
        table[kernel, arithmetic] = tuple(found)
    return table


def search(
    start: LaunchConfig, seconds: Callable[[LaunchConfig], float], fits: Callable[[LaunchConfig], bool]
) -> LaunchConfig:
    """Walk from neighbour to faster neighbour; every launch is timed once, and one that fails is left out."""

    def timed(launch: LaunchConfig) -> float:
        try:
            if launch != start and not fits(launch):
                return math.inf
            found = seconds(launch)
        except Exception as error:
            print(f"  {launch}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}", flush=True)
            return math.inf
        print(f"  {launch}: {found * 1e6:.1f} us", flush=True)
        return found

    times = {start: timed(start)}
    best = start
    while True:
        for launch in neighbours(best):
            if launch not in times:
                times[launch] = timed(launch)
        fastest = min(times, key=times.__getitem__)
        # Written so that a walk among launches that all break ends.
        if times[fastest] >= times[best] * (1 - GAIN):
            return best
        best = fastest


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


def _calls(case: FlowCase, kernel: str, arithmetic: Arithmetic, rows: int) -> tuple[CouplingCalls, calls.Arithmetic]:
    """Return what an entry of the table is tuned on: both maps, and for the step kernels the derivatives, too."""
    parts = () if kernel == "flow" else ("derivatives",)
    return CouplingCalls(case, rows, parts=parts), "bf16" if arithmetic == "half" else arithmetic


def _timer(
    case: FlowCase, kernel: str, arithmetic: Arithmetic, rows: int, device: torch.device
) -> Callable[[LaunchConfig], float]:
    """Return a function to the calls' device seconds with a launch."""
    chosen, precision = _calls(case, kernel, arithmetic, rows)
    inputs = chosen.inputs(device)

    def work(x: torch.Tensor) -> Tensors:
        return tuple(chosen.run(ops, inputs._replace(x=x), precision).found.values())

    def seconds(launch: LaunchConfig) -> float:
        with launched(kernel, arithmetic, launch, 0 if kernel == "flow" else MANY):
            return graph_seconds(work, [(inputs.x,), (inputs.x.flip(0),)], device, capture_cuda)

    return seconds


def _fits(
    case: FlowCase, kernel: str, arithmetic: Arithmetic, rows: int, device: torch.device
) -> Callable[[LaunchConfig], bool]:
    """Return a function that tells whether all kernels keep the budget with a launch.

    Where the target has no budget, the launcher must find out.
    """
    target = target_of(device)
    chosen, precision = _calls(case, kernel, arithmetic, rows)

    def fits(launch: LaunchConfig) -> bool:
        if target not in TARGETS:
            return True
        with launched(kernel, arithmetic, launch, 0 if kernel == "flow" else MANY):
            found = compilations([(chosen, (precision,))], target)
        wanted = [each for each in found if each.products and each.kernel.startswith("flow") == (kernel == "flow")]
        return not any(broken(each, usage(each, target), BUDGETS[target]) for each in wanted)

    return fits
