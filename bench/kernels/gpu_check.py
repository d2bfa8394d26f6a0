"""`python -m nfkern.bench.kernels.gpu_check`: times of the kernels on this machine's GPU, beside eager and compiled.

Needs torch, triton and numpy only. Device times come from replayed CUDA graphs, host times are a caller's. Whether
results are right is for `pytest tests/kernels --device cuda`; `make gpu-check` does both.
"""

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from nfkern.acting.cuda_graphs import Capture, Tensors, capture_cuda
from nfkern.bench.core import records as storage
from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Row, Variant, Work
from nfkern.bench.core.environment import Environment, current_environment
from nfkern.bench.core.files import RESULTS
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Budget, interleaved, stopwatch_for
from nfkern.bench.kernels.calls import matmul_precision
from nfkern.bench.rivals import pytorch, stacked
from nfkern.bench.rivals.graphed import Graphed
from nfkern.bench.runner import Candidate, admit, record_of
from nfkern.bench.works.flow_works import CAUSAL_WORKS, FLOW_WORKS
from nfkern.kernels.dispatch.triton_backend import dependent, launch

BUDGET_S = 300.0
"""Seconds of all timings."""
REPLAYS = 60
BUDGET = Budget(warmup_s=0.05, measure_s=0.2, min_repeats=60, limit_s=1.5)

OURS = (stacked.NFKERN, stacked.FROZEN, stacked.FROZEN_BF16, stacked.NFKERN_BF16, pytorch.EAGER)
COMPILED = (pytorch.REFERENCE, pytorch.REFERENCE_BF16)

ROWS = (
    ("inverse", "ogbench", 1),
    ("inverse", "ogbench", 256),
    ("denoised_action", "ogbench", 1),
    ("training_step", "ogbench", 256),
    ("inverse", "ogbench", 4096),
    ("causal_inverse", "causal", 1),
    ("causal_inverse", "causal", 256),
    ("inverse", "chunked", 1),
    ("inverse", "chunked", 256),
    ("training_step", "ogbench", 4096),
    ("training_step", "chunked", 256),
    ("causal_log_prob", "causal", 256),
    ("causal_training_step", "causal", 256),
    ("causal_inverse", "causal", 4096),
    ("inverse", "ogbench", 65536),
)
"""Work, case and batch; the most wanted first."""


@dataclass(frozen=True)
class Measured:
    """A record, and the number of kernels of a call where a profiler can tell."""

    record: Record
    launches: int | None


def row(work: str, case: str, batch: int, variants: Sequence[Variant]) -> Row:
    """Return a row of the suite for those of `variants` that do this work."""
    works: dict[str, Work] = {each.name: each for each in (*FLOW_WORKS, *CAUSAL_WORKS)}
    return Row(works[work], CASES[case], batch, 1, tuple(v for v in variants if work in v.builders))


def measure(
    row: Row, device: torch.device, environment: Environment, capture: Capture, budget: Budget = BUDGET
) -> Iterator[Measured]:
    """Gate every variant, time what passed side by side, then as CUDA graphs; `*_graph` is a call by replay.

    Device times are those of one graph with a call for each of the problem's sets of inputs, divided by the calls; of
    eager's and a compiler's plain calls, they are what passes on the device from the first kernel to the last.
    """
    problem = row.work.prepare(row.case, row.batch, device)
    with row.work.context():
        candidates = admit(row, problem, device)
        passed = {c.variant.name: c.implementation.run for c in candidates if c.implementation is not None}
        graphs: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.implementation is None:
                continue
            name = f"{candidate.variant.name}_graph"
            graphs[name] = replace(candidate, variant=replace(candidate.variant, name=name))
            try:
                passed[name] = Graphed(candidate.implementation.run, problem.inputs[0], capture)
            except Exception as error:
                # Not every rival can be captured; the other rows must go on.
                graphs[name] = replace(graphs[name], error=f"not captured: {error}")
        calls = {name: [partial(run, *each) for each in problem.inputs] for name, run in passed.items()}
        times = interleaved(calls, budget, stopwatch_for(device)) if calls else {}
        for candidate in (*candidates, *graphs.values()):
            name, taken = candidate.variant.name, times.get(candidate.variant.name)
            launches = None
            if taken is not None and candidate.implementation is not None:
                run, first = candidate.implementation.run, problem.inputs[0]
                if name in graphs:
                    taken = replace(taken, device_median_s=graph_seconds(run, problem.inputs, device, capture))
                else:
                    launches = launch_count(partial(run, *first), device)
            yield Measured(record_of(row, problem, candidate, taken, device, environment), launches)


def graph_seconds(
    run: Callable[..., Any], inputs: Sequence[Tensors], device: torch.device, capture: Capture, replays: int = REPLAYS
) -> float:
    """Return the median device time of a call, one graph holding a call for each set of inputs."""
    replay, _ = capture(lambda *_: _tensors([run(*pair) for pair in inputs]), inputs[0])
    stopwatch = stopwatch_for(device)
    for _ in range(5):
        replay()
    measured = [stopwatch(replay) for _ in range(replays)]
    return statistics.median(wall if on_device is None else on_device for wall, on_device in measured) / len(inputs)


def launch_count(call: Callable[[], Any], device: torch.device) -> int | None:
    """Count the kernels that a call launches, without copies and fills; None without a GPU."""
    if device.type != "cuda":
        return None
    call()
    torch.cuda.synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize(device)
    names = [event.name for event in profiler.events() if event.device_type.name == "CUDA"]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in names)


def _tensors(results: Any) -> Tensors:
    return tuple(leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor))


LAUNCHES, PROGRAMS = 200, 16


def limits(device: torch.device, capture: Capture, size: int, copied: int) -> Iterator[str]:
    """Measure the most that a device can do, a line each: `copied` bytes, products of matrices of `size`, launches."""
    source = torch.randn(copied // 4, device=device)
    target = torch.empty_like(source)
    seconds = graph_seconds(target.copy_, [(source,)], device, capture, replays=20)
    yield f"copy of {copied >> 20} MiB: {2 * copied / seconds / 1e12:.3g} TB/s read and written"
    del source, target
    precisions = (("bf16", torch.bfloat16, "ieee"), ("tf32", torch.float32, "tf32"), ("fp32", torch.float32, "ieee"))
    for name, dtype, precision in precisions:
        # Random numbers: zeros take less power and so run faster.
        left, right = torch.randn(2, size, size, device=device).to(dtype)
        with matmul_precision(precision):
            seconds = graph_seconds(torch.matmul, [(left, right)], device, capture, replays=20)
        yield f"product of two {size} x {size} matrices, {name}: {2 * size**3 / seconds / 1e12:.3g} TFLOP/s"
    if device.type != "cuda":
        yield "launches in a graph: needs a GPU"
        return
    from nfkern.bench.kernels.empty_kernel import empty_kernel

    kinds: dict[str, dict[str, Any]] = {"plain": {"PDL": False}}
    if (options := dependent(device))["PDL"]:
        kinds["with programmatic dependent launch"] = options
    for kind, options in kinds.items():

        def many(like: torch.Tensor, options: dict[str, Any] = options) -> None:
            for _ in range(LAUNCHES):
                launch(empty_kernel, (PROGRAMS,), **options)

        seconds = graph_seconds(many, [(torch.empty(1, device=device),)], device, capture)
        yield f"{LAUNCHES} empty kernels in a graph, {kind}: {seconds / LAUNCHES * 1e6:.3g} us each"


_LEGEND = """Microseconds a call. *device*: of a `_graph` row, replayed calls without host, median; else from first to
last kernel of a plain call. *wall*: as the caller sees it, results ready; a `_graph` row copies inputs in and replays.
*kernels*: launches a plain call. *times eager*: eager's wall median over this row's; eager has a `_graph` row, too."""


def table(measured: Sequence[Measured]) -> list[str]:
    """Lines of a markdown table."""
    lines = [
        "| work | batch | variant | precision | device | wall p50 | wall p99 | kernels | times eager |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    eager = {r.row: r.quantiles.median_s for m in measured for r in (m.record,) if r.variant == "eager" and r.quantiles}
    for each in measured:
        record = each.record
        head = f"| {record.case} {record.work} | {record.batch} | {record.variant} | {record.precision} |"
        if record.quantiles is None:
            kind, reason = ("refused", record.error) if record.error else ("skipped", record.skipped)
            lines.append(f"{head} {kind}: {(reason or '').splitlines()[0][:120]} | | | | |")
            continue
        q, launches = record.quantiles, "" if each.launches is None else str(each.launches)
        ratio = f"{eager[record.row] / q.median_s:.1f}" if record.row in eager else ""
        device = _us(q.device_median_s) if q.device_median_s is not None else ""
        lines.append(f"{head} {device} | {_us(q.median_s)} | {_us(q.p99_s)} | {launches} | {ratio} |")
    return lines


def _summary(record: Record) -> str:
    if record.quantiles is None:
        return f"{record.key}: {record.error or record.skipped}"
    device = record.quantiles.device_median_s
    on_device = "" if device is None else f"device {_us(device)} us, "
    return f"{record.key}: {on_device}wall {_us(record.quantiles.median_s)} us"


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.3g}" if seconds < 1e-3 else f"{seconds * 1e6:.0f}"


class Check:
    """A run of all timings that keeps its time and stops at no failure.

    Args:
        device: where.
        environment: of the records.
        capture: how to capture a graph.
        seconds: of the whole run.
        now: gives seconds.
    """

    def __init__(
        self,
        device: torch.device,
        environment: Environment,
        capture: Capture,
        seconds: float = BUDGET_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device, self.environment, self.capture = device, environment, capture
        self.now, self.start, self.seconds = now, now(), seconds
        self.failures, self.notes, self.limits = list[str](), list[str](), list[str]()
        self.measured = list[Measured]()

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.start + self.seconds - self.now()

    def say(self, text: str, to: list[str] | None = None) -> None:
        """Print with the time since the start, and keep in a list."""
        if to is not None:
            to.append(text)
        print(f"[{self.now() - self.start:5.0f} s] {text}", flush=True)

    def fail(self, title: str, error: Exception) -> None:
        """Note a kernel, a compiler or a baseline that broke: it must not take the rest with it."""
        first = (str(error).strip().splitlines() or [""])[0]
        self.say(f"{title}: {type(error).__name__}: {first}", self.failures)

    def measure(
        self,
        variants: Sequence[Variant],
        reserve: float,
        rows: Sequence[tuple[str, str, int]] = ROWS,
        budget: Budget = BUDGET,
    ) -> None:
        """Time rows in turn, as many as leave `reserve` seconds."""
        for done, (work, case, batch) in enumerate(rows):
            if self.left() < reserve:
                return self.say(f"timings: {len(rows) - done} left out for want of time", self.notes)
            chosen = row(work, case, batch, variants)
            if not chosen.variants:
                continue
            try:
                for each in measure(chosen, self.device, self.environment, self.capture, budget):
                    self.measured.append(each)
                    wrong = each.record.error and each.record.variant.startswith("nfkern")
                    self.say(_summary(each.record), self.failures if wrong else None)
            except Exception as error:
                self.fail(chosen.name, error)
        return None

    def measure_limits(self, reserve: float, size: int = 8192, copied: int = 1 << 30) -> None:
        """Measure the most that the device can do."""
        if self.left() < reserve:
            return self.say("limits of the device: no time left", self.notes)
        try:
            for line in limits(self.device, self.capture, size, copied):
                self.say(line, self.limits)
        except Exception as error:
            self.fail("limits of the device", error)
        return None

    def write(self, folders: Sequence[Path], date: str) -> list[Path]:
        """Write records, if there are any, and page into every folder, named after device and date."""
        name = re.sub(r"[^a-z0-9]+", "-", self.environment.device_name.lower()).strip("-")
        written = []
        for folder in folders:
            records, page = folder / f"{name}-{date}.json", folder / f"{name}-{date}.md"
            if self.measured:
                storage.write(records, [each.record for each in self.measured])
                written.append(records)
            page.write_text(self.page(date), encoding="utf-8")
            written.append(page)
        return written

    def page(self, date: str) -> str:
        """Return all that was found, as markdown."""
        e = self.environment
        made = f"{versions(e)}; commit {e.commit or 'unknown'}; made by `make gpu-check`."
        parts = [f"# {e.device_name}, {date}", made]
        sections = {"Failures": self.failures, "Left out": self.notes, "Limits of the device": self.limits}
        for title, found in sections.items():
            if found:
                parts += [f"## {title}", "\n".join(f"- {line}" for line in found)]
        if self.measured:
            parts += ["## Times", _LEGEND, "\n".join(table(self.measured))]
        return "\n\n".join(parts) + "\n"


def versions(environment: Environment) -> str:
    """Return the versions of Python and of packages in words."""
    return ", ".join(f"{name} {version}" for name, version in environment.versions.items())


def main() -> int:
    """Time everything, write the results; 0, 1 if something broke, 2 without a GPU."""
    if missing := [name for name in ("triton", "numpy") if find_spec(name) is None]:
        print(f"gpu-check: {sys.executable} has no {' and no '.join(missing)}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print(
            f"gpu-check: torch {torch.__version__} finds no GPU here, so nothing was timed. It needs a machine with "
            "a CUDA or ROCm device and a torch built for it; `nfkern bench resources` needs neither.",
            file=sys.stderr,
        )
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    check = Check(device, current_environment(device), capture_cuda)
    free, total = torch.cuda.mem_get_info(device)
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    e = check.environment
    check.say(f"{e.device_name}, capability {capability}, {free >> 20} of {total >> 20} MiB free; {versions(e)}")
    folders = [RESULTS, *([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])]
    try:
        check.measure(OURS, 60)
        check.measure_limits(45)
        # Compiling the two variants of a row takes 20 to 120 s (2026-11, two cores).
        check.measure(COMPILED, 120)
    except KeyboardInterrupt:
        check.failures.append("interrupted")
    finally:
        # Also of a run that broke off: a GPU is not always at hand.
        written = check.write(folders, datetime.now(UTC).strftime("%Y-%m-%d-%H%M"))
        for line in (*check.notes, *(f"FAILED: {failure}" for failure in check.failures)):
            print(line)
        print(f"wrote {', '.join(map(str, written))}; `nfkern bench tables` lists them in {RESULTS / 'README.md'}")
    check.say(f"{len(check.failures)} failures")
    return 1 if check.failures else 0


if __name__ == "__main__":
    sys.exit(main())
