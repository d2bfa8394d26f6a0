"""The steps of a GPU check. Each runs what time allows, prints as it goes and stops at no failure."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from nfkern.acting.cuda_graphs import Capture
from nfkern.bench.core.declarations import Variant
from nfkern.bench.core.timing import Budget
from nfkern.bench.kernels.gpu_check import correctness, limits, timing
from nfkern.bench.kernels.gpu_check.causal_problems import CausalMaps, CausalProblem, causal_ops
from nfkern.bench.kernels.gpu_check.problems import AnyProblem, Arithmetic, Maps
from nfkern.bench.kernels.gpu_check.report import Findings, summary
from nfkern.kernels import backend_reasons, registered_backends

Each = TypeVar("Each")


class Clock:
    """The time that is left.

    Args:
        seconds: of the whole check.
        now: gives seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.start, self.seconds = now, now(), seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self.start + self.seconds - self.now()

    def say(self, text: str) -> None:
        """Print with the time since the start."""
        print(f"[{self.now() - self.start:5.0f} s] {text}", flush=True)


@dataclass
class Session:
    """What all steps share."""

    device: torch.device
    maps: Maps
    capture: Capture
    clock: Clock
    findings: Findings
    causal_maps: CausalMaps = field(default_factory=causal_ops)

    def maps_of(self, problem: AnyProblem) -> Maps | CausalMaps:
        """The ops that a problem calls."""
        return self.causal_maps if isinstance(problem, CausalProblem) else self.maps

    def collect(self, title: str, found: Iterable[str]) -> None:
        """Carry out checks that yield what is wrong."""
        before = len(self.findings.failures)
        try:
            self.findings.failures.extend(found)
        except Exception as error:
            # A kernel, a compiler or a baseline that breaks must not take the rest of the check with it.
            self.findings.failures.append(f"{title}: {_first_line(error)}")
        wrong = self.findings.failures[before:]
        self.clock.say(f"{title}: {'ok' if not wrong else f'{len(wrong)} failures'}")
        for line in wrong:
            print(f"          {line}", flush=True)

    def within(self, name: str, things: Iterable[Each], reserve: float, refused: list[str]) -> Iterator[Each]:
        """As many things as leave `reserve` seconds; the number of the others goes to `refused`."""
        remaining = list(things)
        while remaining and self.clock.left > reserve:
            yield remaining.pop(0)
        if remaining:
            refused.append(f"{name}: {len(remaining)} left out for want of time")
            self.clock.say(refused[-1])


def check_backends(s: Session) -> None:
    """Every op must run its kernel, or the rest would compare the reference with itself.

    Two have none: on a GPU flows call PyTorch's own product, and so does the causal flow's derivative.
    """
    for name, backend in registered_backends(s.device).items():
        if backend != "native" and name not in ("linear", "causal_flow_to_latent_backward"):
            s.findings.failures.append(f"{name} runs its reference: {'; '.join(backend_reasons(name, s.device))}")
            s.clock.say(s.findings.failures[-1])


def compile_kernels(s: Session, reserve: float, jobs: int | None = None) -> None:
    """Fill Triton's cache, on all cores; the checks would otherwise compile one kernel after another.

    What would leave less than `reserve` seconds is left to its first use: few cores take minutes for all.
    """
    from nfkern.bench.kernels.kernel_launches import compilations

    shapes = {problem.case.name: problem.case for problem, _ in correctness.problems()}
    pdl = torch.version.hip is None and torch.cuda.get_device_capability(s.device)[0] >= 9
    chosen = compilations(tuple(shapes.values()), ("ieee", "tf32", "half"), pdl=pdl)
    # Each process takes some 0.5 GB of the device for its context.
    jobs = jobs or min(16, os.cpu_count() or 1)
    s.clock.say(f"compiling {len(chosen)} kernels in {jobs} processes")
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(compile_one, each) for each in chosen]
        wait(pending, timeout=max(0.0, s.clock.left - reserve))
        pool.shutdown(cancel_futures=True)
    wrong = [error for future in pending if not future.cancelled() and (error := future.exception())]
    if left := sum(future.cancelled() for future in pending):
        s.findings.notes.append(f"compilation: {left} of {len(chosen)} kernels left to their first use")
        s.clock.say(s.findings.notes[-1])
    # What breaks one process may break them all: each reason once.
    s.collect("compilation", dict.fromkeys(f"compilation: {_first_line(error)}" for error in wrong))


def compile_one(each: Any) -> None:
    """One kernel, in a process of its own: what Triton returns cannot be sent to another."""
    from nfkern.bench.kernels.binaries import warm_up

    warm_up(each)


def check_ops(s: Session, problems: Iterable[tuple[AnyProblem, tuple[Arithmetic, ...]]], reserve: float) -> None:
    """Every op on every problem, against float64."""
    count = 0
    for problem, arithmetics in s.within("problems", problems, reserve, s.findings.failures):
        title = f"{problem.name}: {', '.join(arithmetics)}"
        s.collect(title, correctness.check(problem, arithmetics, s.maps_of(problem), s.device))
        count += len(arithmetics)
    s.findings.checked.append(f"{count} problems (shape, rows, arithmetic), every op, two runs bit for bit")


def check_graphs(s: Session, problems: Iterable[AnyProblem], reserve: float) -> None:
    """Captured once, replayed on fresh inputs."""
    for problem in s.within("graphs", problems, reserve, s.findings.failures):
        wrong = correctness.check_graphs(problem, ("ieee", "bf16"), s.maps_of(problem), s.device, s.capture)
        s.collect(f"graph of {problem.name}", wrong)
        s.findings.checked.append(f"graphs of {problem.name}, replayed on fresh inputs")


def check_addresses(s: Session, rows: int, part: int) -> None:
    """More rows than 32-bit offsets reach."""
    need, have = 40 << 30, torch.cuda.mem_get_info(s.device)[0] if s.device.type == "cuda" else 1 << 62
    if have < need:
        s.findings.notes.append(f"{rows} rows: needs {need >> 30} GiB of free memory, {have >> 30} are")
        return
    s.collect(f"{rows} rows against parts of {part}", correctness.check_addresses(rows, part, s.maps, s.device))
    s.findings.checked.append(f"{rows} rows equal the same rows in parts")
    if s.device.type == "cuda":
        torch.cuda.empty_cache()


def check_memory(s: Session, timeout: float = 60.0) -> None:
    """NVIDIA's compute-sanitizer on a small case, in a process of its own."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        s.findings.notes.append("compute-sanitizer: not on this machine")
        return
    command = [tool, "--error-exitcode", "9", sys.executable, "-m", "nfkern.bench.kernels.gpu_check", "--small"]
    # Without PyTorch's pool, every tensor has bounds that the tool can see.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, stdout=pipe, stderr=both, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # The Python that it runs, too, which would share the GPU with the timings.
            os.killpg(process.pid, signal.SIGKILL)
            s.findings.notes.append(f"compute-sanitizer: not done after {timeout:.0f} s")
            return
    tail = output.strip().splitlines()[-3:]
    s.collect("compute-sanitizer", [] if process.returncode == 0 else [f"compute-sanitizer: {' / '.join(tail)}"])
    s.findings.checked.append("a small case under compute-sanitizer")


def measure(
    s: Session,
    variants: Sequence[Variant],
    reserve: float,
    rows: Sequence[tuple[str, str, int]],
    budget: Budget,
) -> None:
    """Rows of the table, in turn."""
    for work, case, batch in s.within("timings", rows, reserve, s.findings.notes):
        row = timing.row(work, case, batch, variants)
        if not row.variants:
            continue
        try:
            for each in timing.measure(row, s.device, s.findings.environment, s.capture, budget):
                s.findings.measured.append(each)
                s.clock.say(summary(each.record))
                if each.record.error and each.record.variant.startswith("nfkern"):
                    s.findings.failures.append(f"{each.record.key}: {each.record.error}")
        except Exception as error:
            s.findings.failures.append(f"{row.name}: {_first_line(error)}")
            s.clock.say(s.findings.failures[-1])


def measure_limits(s: Session, reserve: float, size: int, copied: int) -> None:
    """What the device can do at best."""
    if s.clock.left < reserve:
        s.findings.notes.append("limits of the device: no time left")
        return
    try:
        for line in limits.limits(s.device, s.capture, size, copied):
            s.findings.limits.append(line)
            s.clock.say(line)
    except Exception as error:
        s.findings.failures.append(f"limits of the device: {_first_line(error)}")
        s.clock.say(s.findings.failures[-1])


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
