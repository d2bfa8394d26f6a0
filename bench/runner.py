"""Measures a row: build, gate, then time side by side what passed."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch

from nfkern.bench.core.declarations import SAME_RESULTS, Implementation, Problem, Row, Variant
from nfkern.bench.core.environment import Environment, clock_state
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Budget, Quantiles, interleaved, num_threads, stopwatch_for
from nfkern.bench.memory import peak_bytes

Tell = Callable[[str], None]
"""Takes what happens, in a word: a variant's name while it is built and checked, "timing 37 %", "memory"."""


@dataclass
class Candidate:
    """A variant on its way to a number; without an implementation it has a reason."""

    variant: Variant
    implementation: Implementation | None = None
    first_call_s: float | None = None
    error: str | None = None
    skipped: str | None = None


def measure(
    row: Row, device: torch.device, environment: Environment, budget: Budget, tell: Tell = lambda stage: None
) -> list[Record]:
    """One record per variant of the row; a variant whose gate is red gets its reason instead of a number.

    `tell` is called with what happens: a compiler may take a minute, and timing many.
    """
    problem = row.work.prepare(row.case, row.batch, device)
    with num_threads(row.threads), row.work.context():
        candidates = admit(row, problem, device, tell)
        passed = {c.variant.name: c.implementation.calls(problem.inputs) for c in candidates if c.implementation}
        times: Mapping[str, Quantiles] = {}
        if passed:
            tell("timing 0 %")
            times = interleaved(
                passed,
                budget,
                stopwatch_for(device),
                lambda share: tell(f"timing {100 * share:.0f} %"),
                row.work.between_calls(),
            )
    records = [record_of(row, problem, c, times.get(c.variant.name), device, environment) for c in candidates]
    if not row.memory:
        return records
    tell("memory")
    return [
        replace(record, peak_bytes=peak_bytes(row, c.variant, device)) if record.quantiles else record
        for c, record in zip(candidates, records, strict=True)
    ]


def admit(row: Row, problem: Problem, device: torch.device, tell: Tell = lambda stage: None) -> list[Candidate]:
    """Build the row's variants and pass each through the gate, under the caller's thread count and grad state."""
    if any(variant.compiles for variant in row.variants):
        torch.compiler.reset()
    candidates = []
    for variant in row.variants:
        tell(variant.name)
        candidates.append(_admit(variant, row, problem, device))
    return candidates


def record_of(
    row: Row,
    problem: Problem,
    candidate: Candidate,
    times: Quantiles | None,
    device: torch.device,
    environment: Environment,
) -> Record:
    """Return the record of a candidate."""
    own = candidate.implementation.parameters if candidate.implementation else None
    return Record(
        work=row.work.name,
        case=row.case.name,
        batch=row.batch,
        variant=candidate.variant.name,
        mode=row.work.mode,
        threads=row.threads,
        precision=candidate.variant.precision,
        parameters=problem.parameters if own is None else own,
        first_call_s=candidate.first_call_s,
        quantiles=times,
        error=candidate.error,
        skipped=candidate.skipped,
        clock=clock_state(device),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment,
    )


def _admit(variant: Variant, row: Row, problem: Problem, device: torch.device) -> Candidate:
    if reasons := variant.not_supported_reasons(row.work, device):
        return Candidate(variant, skipped="; ".join(reasons))
    try:
        with _cold_compiler():
            start = time.perf_counter()
            built = variant.builders[row.work.job](problem)
            run, ended = _noting_first_end(built.run)
            reason = _wrong(variant, row, problem, replace(built, run=run))
    except Exception as error:
        # A baseline that breaks must not take the other rows with it; the record and the exit code tell.
        return Candidate(variant, error=f"{type(error).__name__}: {error}")
    seconds = ended[0] - start if ended else None
    if reason:
        return Candidate(variant, first_call_s=seconds, error=reason)
    return Candidate(variant, built, seconds)


def _wrong(variant: Variant, row: Row, problem: Problem, implementation: Implementation) -> str | None:
    """Return why its results are wrong, by the work's check or, where it computes something else, by its own."""
    if (implementation.check is None) != (variant.standing in SAME_RESULTS):
        raise ValueError(
            f"{variant.name}: a check of its own belongs to every variant with other results, and to no other"
        )
    if implementation.check is not None:
        return implementation.check(implementation)
    return row.work.check(problem, implementation, variant.precision)


def _noting_first_end(run: Callable[..., Any]) -> tuple[Callable[..., Any], list[float]]:
    """`run`, and a list that will hold the time at which its first call ended."""
    ended: list[float] = []

    def noting(*inputs: Any) -> Any:
        result = run(*inputs)
        if not ended:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            ended.append(time.perf_counter())
        return result

    return noting, ended


@contextmanager
def _cold_compiler() -> Iterator[None]:
    """Compile from scratch: the recorded time must not depend on earlier runs. Torch's own warnings are not ours."""
    no_caches = torch.compiler.config.patch(force_disable_caches=True)  # type: ignore[attr-defined]
    with no_caches, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")
        yield
