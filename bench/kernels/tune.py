"""`nfkern bench tune`: times launches of the Triton kernels on this machine's GPU and prints the table of the best."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch

from nfkern.acting.cuda_graphs import Tensors, capture_cuda
from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.kernels.binaries import TARGETS, usage
from nfkern.bench.kernels.calls import COMPUTE_DTYPES, matmul_precision, ops, random_inputs
from nfkern.bench.kernels.gpu_check import graph_seconds
from nfkern.bench.kernels.kernel_launches import compilations
from nfkern.bench.kernels.resources import BUDGETS, broken
from nfkern.errors import UserError
from nfkern.kernels.coupling import triton_launch
from nfkern.kernels.coupling.parameters import Settings
from nfkern.kernels.coupling.triton_launch import LAUNCHES, MANY, Arithmetic, LaunchConfig

Table = dict[tuple[str, Arithmetic], tuple[tuple[int, LaunchConfig], ...]]
MOST_ROWS = 4096
"""What entries without a limit are tuned for."""
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
    """Walk from neighbour to faster neighbour; every launch is timed once, and one that breaks is none."""

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
    """Inside, every number of rows takes this launch, and maps of more than `step_rows` rows the flow kernel."""
    before, rows_before = LAUNCHES[kernel, arithmetic], triton_launch.STEP_ROWS
    LAUNCHES[kernel, arithmetic], triton_launch.STEP_ROWS = ((MANY, launch),), step_rows
    try:
        yield
    finally:
        LAUNCHES[kernel, arithmetic], triton_launch.STEP_ROWS = before, rows_before


def _timer(
    case: FlowCase, kernel: str, arithmetic: Arithmetic, rows: int, device: torch.device
) -> Callable[[LaunchConfig], float]:
    """Device seconds of what the kernel does: both maps; of the steps also the derivatives."""
    maps, i = ops(), random_inputs(case, rows, rows, torch.Generator(device).manual_seed(0))
    settings = (i.parameters, Settings(case.norm_eps, None, COMPUTE_DTYPES["bf16" if arithmetic == "half" else "ieee"]))

    def work(x: torch.Tensor) -> Tensors:
        z, _, states, *_ = maps.to_latent(x, i.term, i.mixing, i.mixing_log_det, *settings)
        data = maps.to_data(x, i.term, i.inverse, i.inverse_log_det, *settings)[0]
        if kernel == "flow":
            return z, data
        score = maps.to_data_with_score(x, i.term, i.mixing, i.inverse, i.inverse_log_det, *settings)[2]
        grads = maps.to_latent_backward(i.grad, i.grad_log_det, states, i.term, i.mixing, *settings, True)
        return (z, data, score, *grads)

    def seconds(launch: LaunchConfig) -> float:
        with (
            launched(kernel, arithmetic, launch, 0 if kernel == "flow" else MANY),
            matmul_precision("tf32" if arithmetic == "tf32" else "ieee"),
        ):
            return graph_seconds(work, [(i.x,), (i.x.flip(0),)], device, capture_cuda)

    return seconds


def _fits(
    case: FlowCase, kernel: str, arithmetic: Arithmetic, rows: int, device: torch.device
) -> Callable[[LaunchConfig], bool]:
    """Whether all kernels keep the budget with a launch; where the target has none, the launcher must find out."""
    major, minor = torch.cuda.get_device_capability(device)
    target = "gfx942" if torch.version.hip else f"sm_{major}{minor}"

    def fits(launch: LaunchConfig) -> bool:
        if target not in TARGETS:
            return True
        with launched(kernel, arithmetic, launch, 0 if kernel == "flow" else MANY):
            chosen = compilations((case,), (arithmetic,), (rows,), pdl=target in ("sm_90", "sm_100"))
        wanted = [each for each in chosen if each.products and each.kernel.startswith("flow") == (kernel == "flow")]
        return not any(broken(each, usage(each, target), BUDGETS[target]) for each in wanted)

    return fits
