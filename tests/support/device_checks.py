r"""Every op against float64, in every arithmetic; two runs bit for bit; graphs; addresses beyond 32 bits.

Values are judged by the rule of `bench.gate`. Derivatives need more care: that of LeakyReLU jumps at zero. In full
float32 the problems keep away from the kinks, and the same rule holds. A tf32 or 16-bit product errs by about epsilon
of a preactivation's size, so that a share of about epsilon of all units lies on the other side. Then

- gradients of rows (of x, the score): at most one row in a hundred, or one row, may be beyond the rule;
- gradients of parameters, sums over rows in which each such unit errs by all of what it brings: in the Frobenius norm

.. math:: \|g - g_{64}\| \le (4 \epsilon \sqrt{K} + 2 \sqrt{\epsilon}) \, \|g_{64}\|

for K blocks, whose roundings add up. The reference itself, in bf16 on a CPU, takes a fifth of it (2026-11).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from nfkern.acting.cuda_graphs import Capture
from nfkern.bench.core import gate
from nfkern.bench.core.cases import CASES
from nfkern.bench.kernels.calls import (
    ARITHMETICS,
    Arithmetic,
    Calls,
    CausalCalls,
    CouplingCalls,
    ExampleCalls,
    Ops,
    Results,
    Tensors,
    cast,
    matmul_precision,
    ops,
    reference_ops,
)
from nfkern.kernels.coupling.parameters import Settings
from support import kinks

EPSILON: dict[Arithmetic, float] = {
    "ieee": gate.EPSILON["fp32"],
    "tf32": gate.EPSILON["tf32"],
    "bf16": gate.EPSILON["bf16"],
    # float16 has tf32's ten bits.
    "fp16": gate.EPSILON["tf32"],
}
ROWS_SHARE = 0.01
_ROW_DERIVATIVES = ("to_data_with_score score", "grad of x")


def problems() -> Iterator[tuple[Calls, tuple[Arithmetic, ...]]]:
    """The calls that are checked, in which arithmetic, the most used first."""
    for name in ("ogbench", "chunked"):
        for rows in (1, 7, 256, 600, 5000):
            yield CouplingCalls(CASES[name], rows), ARITHMETICS
    for rows in (1, 256, 5000):
        yield CausalCalls(CASES["causal"], rows), ARITHMETICS
    yield CausalCalls(CASES["causal"], 600, 3, prefix=True, bound=2.0), ARITHMETICS
    yield CouplingCalls(CASES["ogbench"], 600, 3, bound=2.0), ARITHMETICS
    yield CouplingCalls(CASES["ogbench"], 256, 1, bound=0.5), ("ieee", "bf16")
    yield CouplingCalls(CASES["ogbench"], 256, seeds=3), ("ieee", "bf16")
    yield CouplingCalls(CASES["ogbench"], 600, seeds=2), ("ieee",)
    for name in ("ogbench_jax", "ogbench_features_8", "ogbench_features_21", "goal_density", "widest", "tiny"):
        for rows in (7, 600):
            yield CouplingCalls(CASES[name], rows), ("ieee", "tf32", "bf16")
    for name in ("causal_2", "causal_8", "causal_256", "causal_tiny"):
        yield CausalCalls(CASES[name], 7), ("ieee", "bf16")
    for examples in ExampleCalls.of_all_ops():
        yield examples, ("ieee",)


def check(calls: Calls, arithmetics: tuple[Arithmetic, ...], device: torch.device, ops: Ops = ops) -> Iterator[str]:
    """Yield what is wrong with the results of `ops`, one line each."""
    inputs = calls.inputs(device)
    if isinstance(calls, CouplingCalls):
        kinks.move_away(calls, inputs)
    exact = calls.run(reference_ops, cast(inputs, torch.float64), "ieee")
    states = cast(exact.states, torch.float32)
    single = calls.run(reference_ops, inputs, "ieee", states)
    for arithmetic in arithmetics:
        name = f"{calls.name} {arithmetic}"
        results = calls.run(ops, inputs, arithmetic, states)
        for wrong in judge(calls, arithmetic, results, exact, single):
            yield f"{name}: {wrong}"
        with nan_filled():
            again = calls.run(ops, inputs, arithmetic, states)
        for key, value in results.found.items():
            if not torch.equal(value, again.found[key]):
                yield f"{name}: {key}: a second run, in memory filled with NaN, gives other bits"


def judge(calls: Calls, arithmetic: Arithmetic, results: Results, exact: Results, single: Results) -> Iterator[str]:
    """Yield a line for every result beyond its tolerance."""
    epsilon = EPSILON[arithmetic]
    for key, wanted in exact.found.items():
        value, rounded = results.found[key], single.found[key]
        summed = "grad of" in key and not key.endswith(_ROW_DERIVATIVES)
        terms = calls.terms * (calls.rows if summed else 1)
        if arithmetic == "ieee" or not ("grad of" in key or key.endswith(_ROW_DERIVATIVES)):
            wrong = gate.disagreement(key, value, wanted, rounded, epsilon, terms)
        elif value.shape != wanted.shape:
            wrong = f"{key}: expected shape {tuple(wanted.shape)}, got {tuple(value.shape)}"
        elif summed:
            wrong = _norm_disagreement(key, value, wanted, epsilon, calls.blocks)
        else:
            wrong = _rows_disagreement(key, value, wanted, gate.tolerance(wanted, rounded, epsilon, terms))
        if wrong:
            yield wrong


def _norm_disagreement(key: str, value: torch.Tensor, exact: torch.Tensor, epsilon: float, blocks: int) -> str | None:
    allowed = 4 * epsilon * math.sqrt(blocks) + 2 * math.sqrt(epsilon)
    error = float((value.double() - exact).norm() / exact.norm())
    # Written so that NaN fails.
    return None if error <= allowed else f"{key}: relative error {error:.3g} in norm exceeds {allowed:.3g}"


def _rows_disagreement(key: str, value: torch.Tensor, exact: torch.Tensor, allowed: float) -> str | None:
    off = ~((value.double() - exact).abs().amax(-1) <= allowed)
    count, limit = int(off.sum()), max(1, int(ROWS_SHARE * off.numel()))
    if count <= limit and bool(value.isfinite().all()):
        return None
    return f"{key}: {count} of {off.numel()} rows exceed the derived tolerance {allowed:.3g}; {limit} may"


@contextmanager
def nan_filled() -> Iterator[None]:
    """Fill memory that is allocated without a value with NaN: what is read before it is written shows."""
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def check_graphs(
    calls: Calls, arithmetics: tuple[Arithmetic, ...], device: torch.device, capture: Capture
) -> Iterator[str]:
    """Yield what differs when a captured graph is replayed on fresh inputs."""
    for arithmetic in arithmetics:
        first, fresh = (calls.inputs(device, seed) for seed in (1, 2))
        static = tree_map_only(torch.Tensor, torch.clone, first)

        def function(*_: torch.Tensor, static: Any = static, arithmetic: Arithmetic = arithmetic) -> Tensors:
            return tuple(calls.run(ops, static, arithmetic).found.values())

        replay, outputs = capture(function, (static.x,))
        for target, source in zip(tree_leaves(static), tree_leaves(fresh), strict=True):
            target.copy_(source)
        replay()
        wanted = calls.run(ops, fresh, arithmetic).found
        for (key, value), output in zip(wanted.items(), outputs, strict=True):
            if not torch.equal(value, output):
                yield f"{calls.name} {arithmetic}: {key}: a graph's replay on fresh inputs gives other bits"


def check_addresses(
    rows: int, part: int, device: torch.device, ops: Ops = ops, shape: str = "ogbench"
) -> Iterator[str]:
    """Yield what differs between many rows and the same rows in parts: 2^20 rows' contexts take 13 GB, 2^32 beyond.

    Args:
        rows: of a call.
        part: rows of a part, a divisor of `rows` above every entry of the launch table but the last.
        device: where.
        ops: to call.
        shape: the flow's.
    """
    case = CASES[shape]
    small = CouplingCalls(case, 1).inputs(device)
    x, grad = torch.randn(2, rows, case.features, device=device)
    term = torch.randn(rows, case.blocks, 2, case.hidden[0], device=device)
    grad_log_det, settings = torch.randn(rows, device=device), (small.parameters, Settings(case.norm_eps, None, None))

    def run(chosen: slice) -> Iterator[tuple[str, torch.Tensor]]:
        args = (term[chosen], small.mixing, small.mixing_log_det)
        z, log_det, inputs, *_ = ops("coupling_to_latent", x[chosen], *args, *settings)
        yield from (("to_latent z", z), ("to_latent log_det", log_det))
        grads = (grad[chosen], grad_log_det[chosen])
        back = ops("coupling_to_latent_backward", *grads, inputs, *args[:2], *settings, False)
        yield "to_latent_backward grad of x", back[0]
        yield "to_data x", ops("coupling_to_data", x[chosen], *args, *settings)[0]
        arguments = (term[chosen], small.mixing, small.inverse, small.inverse_log_det)
        yield "score", ops("coupling_to_data_with_score", x[chosen], *arguments, *settings)[2]

    with matmul_precision("ieee"):
        whole = dict(run(slice(None)))
        for start in range(0, rows, part):
            chosen = slice(start, start + part)
            for key, value in run(chosen):
                if not torch.equal(whole[key][chosen], value):
                    yield f"{rows} rows: {key}: rows {start} to {start + part} differ from the same rows alone"


def graph_problems() -> Iterator[Calls]:
    """Calls whose graphs are checked: each regime of the launch table."""
    yield from (CouplingCalls(CASES["ogbench"], rows) for rows in (1, 256, 5000))
    yield from (CausalCalls(CASES["causal"], rows) for rows in (1, 256))
