"""What a GPU check does, in which order, and how it divides its time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nfkern.bench.core.timing import Budget
from nfkern.bench.kernels.gpu_check import correctness, steps, timing
from nfkern.bench.kernels.gpu_check.problems import AnyProblem, Arithmetic

BUDGET_S = 480.0


@dataclass(frozen=True)
class Plan:
    """Sizes; the defaults are those of `make gpu-check`.

    Attributes:
        problems: what is compared with float64.
        graphs: what is captured and replayed.
        rows, part: for addresses beyond 32 bits.
        timings: rows of the table.
        budget: of a row's host times.
        limits_size, limits_bytes: of the device's own matrix products and copies.
    """

    problems: Callable[[], Iterable[tuple[AnyProblem, tuple[Arithmetic, ...]]]] = correctness.problems
    graphs: Callable[[], Iterable[AnyProblem]] = correctness.graph_problems
    rows: int = 1 << 20
    part: int = 1 << 16
    timings: tuple[tuple[str, str, int], ...] = timing.ROWS
    budget: Budget = timing.BUDGET
    limits_size: int = 8192
    limits_bytes: int = 1 << 30


def carry_out(session: steps.Session, plan: Plan) -> None:
    """All steps; right comes before fast, and what takes compilers minutes comes last."""
    steps.check_backends(session)
    if session.device.type == "cuda":
        steps.compile_kernels(session, reserve=340)
    steps.check_ops(session, plan.problems(), reserve=230)
    steps.check_graphs(session, plan.graphs(), reserve=220)
    steps.check_addresses(session, plan.rows, plan.part)
    if session.device.type == "cuda":
        steps.check_memory(session, timeout=max(10.0, min(60.0, session.clock.left - 180)))
    steps.measure(session, timing.OURS, 60, plan.timings, plan.budget)
    steps.measure_limits(session, 45, plan.limits_size, plan.limits_bytes)
    # Compiling the two variants of a row takes 20 to 120 s (2026-11, two cores).
    steps.measure(session, timing.COMPILED, 120, plan.timings, plan.budget)
