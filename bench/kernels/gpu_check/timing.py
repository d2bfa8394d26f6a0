"""How fast: device time from replayed CUDA graphs, host time as a caller sees it, launches a call."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from nfkern.acting.cuda_graphs import Capture, Tensors
from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Row, Variant, Work
from nfkern.bench.core.environment import Environment
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Budget, interleaved, stopwatch_for
from nfkern.bench.problems import eager, eager_causal
from nfkern.bench.rivals import compiled, frozen, stacked
from nfkern.bench.rivals.graphed import Graphed
from nfkern.bench.runner import Candidate, admit, record_of
from nfkern.bench.works.causal_works import CAUSAL_WORKS
from nfkern.bench.works.flow_works import FLOW_WORKS

REPLAYS = 60
BUDGET = Budget(warmup_s=0.05, measure_s=0.2, min_repeats=60, limit_s=1.5)

OURS = (
    Variant("nfkern", "nfkern as a user calls it", stacked.BUILDERS),
    Variant("nfkern_frozen", "nfkern frozen for acting", frozen.BUILDERS),
    Variant("nfkern_frozen_bf16", "nfkern frozen, hidden products in bf16", frozen.BF16_BUILDERS, precision="bf16"),
    Variant("nfkern_bf16", "nfkern trained under autocast", stacked.BF16_BUILDERS, precision="bf16"),
    Variant(
        "eager",
        "naive flow, a module per block, eager PyTorch",
        {**eager.BUILDERS, **eager_causal.BUILDERS},
    ),
)
COMPILED = (
    Variant("reference_compile", "the stacked reference compiled", compiled.REFERENCE_BUILDERS, compiles=True),
    Variant(
        "reference_compile_bf16",
        "the same, hidden products in bf16",
        compiled.REFERENCE_BF16_BUILDERS,
        precision="bf16",
        compiles=True,
    ),
)

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
    """A record, and how many kernels a call launches where a profiler can tell."""

    record: Record
    launches: int | None


def row(work: str, case: str, batch: int, variants: Sequence[Variant]) -> Row:
    """A row of the suite for those of `variants` that do this work."""
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
    """Median device time of a call, one graph holding a call for each set of inputs."""
    replay, _ = capture(lambda *_: _tensors([run(*pair) for pair in inputs]), inputs[0])
    stopwatch = stopwatch_for(device)
    for _ in range(5):
        replay()
    measured = [stopwatch(replay) for _ in range(replays)]
    return statistics.median(wall if on_device is None else on_device for wall, on_device in measured) / len(inputs)


def launch_count(call: Callable[[], Any], device: torch.device) -> int | None:
    """Kernels that a call launches, copies and fills not counted; None without a GPU."""
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
