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

from nfkern.acting.cuda_graphs import Capture
from nfkern.bench.core import gate
from nfkern.bench.core.cases import CASES, CausalCase, FlowCase
from nfkern.bench.kernels.calls import ARITHMETICS, Arithmetic, Maps, Tensors, matmul_precision
from nfkern.kernels.coupling.parameters import Settings
from support.causal_device_problems import CausalProblem
from support.device_problems import Problem, Results

EPSILON: dict[Arithmetic, float] = {
    "ieee": gate.EPSILON["fp32"],
    "tf32": gate.EPSILON["tf32"],
    "bf16": gate.EPSILON["bf16"],
    # float16 has tf32's ten bits.
    "fp16": gate.EPSILON["tf32"],
}
ROWS_SHARE = 0.01
_ROW_DERIVATIVES = ("score score", "grad of x")


def _case(name: str) -> FlowCase:
    case = CASES[name]
    assert isinstance(case, FlowCase)
    return case


def _causal_case(name: str) -> CausalCase:
    case = CASES[name]
    assert isinstance(case, CausalCase)
    return case


def problems() -> Iterator[tuple[Problem | CausalProblem, tuple[Arithmetic, ...]]]:
    """What is checked, in which arithmetic, the most used first."""
    ogbench, chunked = _case("ogbench"), _case("chunked")
    for case in (ogbench, chunked):
        for rows in (1, 7, 256, 600, 5000):
            yield Problem(case, rows, rows), ARITHMETICS
    causal = _causal_case("causal")
    for rows in (1, 256, 5000):
        yield CausalProblem(causal, rows, rows), ARITHMETICS
    yield CausalProblem(causal, 600, 3, prefix=True, bound=2.0), ARITHMETICS
    yield Problem(ogbench, 600, 3, bound=2.0), ARITHMETICS
    yield Problem(ogbench, 256, 1, bound=0.5), ("ieee", "bf16")
    yield Problem(ogbench, 256, 256, seeds=3), ("ieee", "bf16")
    yield Problem(ogbench, 600, 600, seeds=2), ("ieee",)
    for name in ("ogbench_jax", "ogbench_features_8", "ogbench_features_21", "goal_density", "widest", "tiny"):
        for rows in (7, 600):
            yield Problem(_case(name), rows, rows), ("ieee", "tf32", "bf16")
    for name in ("causal_2", "causal_8", "causal_256", "causal_tiny"):
        yield CausalProblem(_causal_case(name), 7, 7), ("ieee", "bf16")


def check(
    problem: Problem | CausalProblem, arithmetics: tuple[Arithmetic, ...], maps: Any, device: torch.device
) -> Iterator[str]:
    """What is wrong with the results of `maps`, one line each."""
    inputs = problem.inputs(device)
    double = inputs.map(torch.Tensor.double)
    exact = problem.run(problem.maps("_reference"), double, "ieee")
    states = exact.states.float()
    single = problem.run(problem.maps("_reference"), inputs, "ieee", states)
    for arithmetic in arithmetics:
        name = f"{problem.name} {arithmetic}"
        results = problem.run(maps, inputs, arithmetic, states)
        for wrong in judge(problem, arithmetic, results, exact, single):
            yield f"{name}: {wrong}"
        with nan_filled():
            again = problem.run(maps, inputs, arithmetic, states)
        for key, value in results.found.items():
            if not torch.equal(value, again.found[key]):
                yield f"{name}: {key}: a second run, in memory filled with NaN, gives other bits"


def judge(
    problem: Problem | CausalProblem, arithmetic: Arithmetic, results: Results, exact: Results, single: Results
) -> Iterator[str]:
    """Which results are beyond their tolerance."""
    epsilon = EPSILON[arithmetic]
    for key, wanted in exact.found.items():
        value, rounded = results.found[key], single.found[key]
        summed = "grad of" in key and not key.endswith(_ROW_DERIVATIVES)
        terms = problem.terms * (problem.rows if summed else 1)
        if arithmetic == "ieee" or not ("grad of" in key or key.endswith(_ROW_DERIVATIVES)):
            wrong = gate.disagreement(key, value, wanted, rounded, epsilon, terms)
        elif value.shape != wanted.shape:
            wrong = f"{key}: expected shape {tuple(wanted.shape)}, got {tuple(value.shape)}"
        elif summed:
            wrong = _norm_disagreement(key, value, wanted, epsilon, problem.case.blocks)
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
    problem: Problem | CausalProblem,
    arithmetics: tuple[Arithmetic, ...],
    maps: Any,
    device: torch.device,
    capture: Capture,
) -> Iterator[str]:
    """What differs when a captured graph is replayed on fresh inputs."""
    for arithmetic in arithmetics:
        first, fresh = (problem.inputs(device, seed) for seed in (1, 2))
        static = first.map(torch.clone)

        def function(*_: torch.Tensor, static: Any = static, arithmetic: Arithmetic = arithmetic) -> Tensors:
            return tuple(problem.run(maps, static, arithmetic).found.values())

        replay, outputs = capture(function, (static.x,))
        for target, source in zip(static[:-1], fresh[:-1], strict=True):
            target.copy_(source)
        replay()
        wanted = problem.run(maps, fresh, arithmetic).found
        for (key, value), output in zip(wanted.items(), outputs, strict=True):
            if not torch.equal(value, output):
                yield f"{problem.name} {arithmetic}: {key}: a graph's replay on fresh inputs gives other bits"


def check_addresses(rows: int, part: int, maps: Maps, device: torch.device) -> Iterator[str]:
    """What differs between many rows and the same rows in parts: 2^20 rows' contexts take 13 GB, 2^32 beyond.

    Args:
        rows: of ogbench.
        part: rows of a part, a divisor of `rows` above every entry of the launch table but the last.
        maps: what is checked.
        device: where.
    """
    case = _case("ogbench")
    small = Problem(case, 1, 1).inputs(device)
    x, grad = torch.randn(2, rows, case.features, device=device)
    term = torch.randn(rows, case.blocks, 2, case.hidden[0], device=device)
    grad_log_det, settings = torch.randn(rows, device=device), (small.parameters, Settings(case.norm_eps, None, None))

    def run(chosen: slice) -> Iterator[tuple[str, torch.Tensor]]:
        args = (term[chosen], small.mixing, small.mixing_log_det)
        z, log_det, inputs, *_ = maps.to_latent(x[chosen], *args, *settings)
        yield from (("to_latent z", z), ("to_latent log_det", log_det))
        back = maps.to_latent_backward(grad[chosen], grad_log_det[chosen], inputs, *args[:2], *settings, False)
        yield "to_latent_backward grad of x", back[0]
        yield "to_data x", maps.to_data(x[chosen], *args, *settings)[0]
        matrices = (small.mixing, small.inverse, small.inverse_log_det)
        yield "score score", maps.to_data_with_score(x[chosen], term[chosen], *matrices, *settings)[2]

    with matmul_precision("ieee"):
        whole = dict(run(slice(None)))
        for start in range(0, rows, part):
            chosen = slice(start, start + part)
            for key, value in run(chosen):
                if not torch.equal(whole[key][chosen], value):
                    yield f"{rows} rows: {key}: rows {start} to {start + part} differ from the same rows alone"


def graph_problems() -> Iterator[Problem | CausalProblem]:
    """Where graphs are checked: each regime of the launch table."""
    for rows in (1, 256, 5000):
        yield Problem(_case("ogbench"), rows, rows)
    for rows in (1, 256):
        yield CausalProblem(_causal_case("causal"), rows, rows)
