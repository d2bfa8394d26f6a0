"""Declarations of benchmarks: a work, done by variants, on a case, at a batch size."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Protocol

import torch

from nfkern.bench.core.cases import CASES, Case

Precision = Literal["fp64", "fp32", "tf32", "bf16", "int8"]
Mode = Literal["inference", "training"]
Standing = Literal["peer", "plain", "tolerance", "same_size", "own_size", "floor"]

STANDINGS: dict[Standing, str] = {
    "peer": "",
    "plain": "the same results, as one would first write it",
    "tolerance": "the same results, to a stated tolerance wider than rounding",
    "same_size": "same size, not the same function",
    "own_size": "another function, in its usual size",
    "floor": "a floor, not the whole job",
}
"""What the report says of variants that do not compute the work's results as well, or that nobody would choose."""

SAME_RESULTS = ("peer", "plain")
"""Whose results the work's own check holds to the reference's."""


@dataclass(frozen=True)
class Implementation:
    """A variant ready to run on one problem.

    Args:
        run: called with one set of the problem's inputs; what is timed.
        gradients: training only: the parameters' gradients after the first step, under nfkern's names and shapes.
        arguments: makes `run`'s arguments of a set of inputs, for variants whose arrays are not PyTorch's; not timed.
        result: makes tensors of what `run` returns; the gate needs them, and nothing timed does.
        check: of a variant that is no peer: why its results are wrong, or None, in place of the work's check.
        parameters: how many it has, where that differs from the problem's.
    """

    run: Callable[..., Any]
    gradients: Callable[[], dict[str, torch.Tensor]] | None = None
    arguments: Callable[..., tuple[Any, ...]] | None = None
    result: Callable[[Any], Any] | None = None
    check: Callable[["Implementation"], str | None] | None = None
    parameters: int | None = None

    def __call__(self, *inputs: Any) -> Any:
        """The results for one set of the problem's inputs, as tensors."""
        (call,) = self.calls([inputs])
        return self.result(call()) if self.result else call()

    def calls(self, inputs: Sequence[tuple[Any, ...]]) -> list[Callable[[], Any]]:
        """Calls to be timed: for each set of inputs, `run` with its arguments at hand."""
        made = [self.arguments(*each) for each in inputs] if self.arguments else inputs
        return [partial(self.run, *arguments) for arguments in made]


class Problem(Protocol):
    """A work's data at one case and batch: what builders read."""

    @property
    def inputs(self) -> Sequence[tuple[Any, ...]]:
        """Sets of random arguments for `Implementation.run`, used in rotation."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters, 0 where there is no model."""


Builder = Callable[[Any], Implementation]


class Work:
    """A job with a definition of correct.

    Attributes:
        name: how suites and records call it.
        job: how `Variant.builders` call it, `name` unless stated: works may differ in what happens between calls alone.
        mode: "training" if autograd's graph is part of the job.
        device: the one type of device that it measures, as in `torch.device.type`; elsewhere its rows are skipped.
    """

    name: str
    mode: Mode
    device: ClassVar[str | None] = None

    @property
    def job(self) -> str:
        """As in `Variant.builders`."""
        return self.name

    def between_calls(self) -> Callable[[], None] | None:
        """Make a function to run, untimed, before every timed call; None for calls back to back."""
        return None

    def prepare(self, case: Any, batch: int, device: torch.device) -> Any:
        """The problem at this case and batch; everything that is not to be timed happens here."""
        raise NotImplementedError

    def context(self) -> AbstractContextManager[Any]:
        """Autograd's state around every call; without one, variants see to it themselves, as a user's code would."""
        return nullcontext()

    def check(self, problem: Any, implementation: Implementation, precision: Precision) -> str | None:
        """Why the implementation's results are wrong, or None."""
        raise NotImplementedError


@dataclass(frozen=True)
class Variant:
    """A way of doing works, ours or a baseline's.

    Args:
        name: as in records; fixed for ever, so that records stay comparable.
        summary: one line for `bench list` and the report.
        builders: for each job it can do, a function from the problem to an `Implementation`.
        precision: of its hidden products; it sets the gate's tolerance.
        compiles: its first call compiles, so compilers' caches are dropped before it is built.
        requires: modules that must be importable; without them its rows are skipped with that reason.
        device: the one type of device that it runs on, as in `torch.device.type`; elsewhere its rows are skipped.
        standing: one of `SAME_RESULTS` leaves the check to the work; the others bring theirs.
    """

    name: str
    summary: str
    builders: Mapping[str, Builder]
    precision: Precision = "fp32"
    compiles: bool = False
    requires: tuple[str, ...] = ()
    device: str | None = None
    standing: Standing = "peer"

    def not_supported_reasons(self, work: Work, device: torch.device) -> list[str]:
        """Why this variant cannot do `work` on this device; empty if it can."""
        reasons = [f"needs the module {name}" for name in self.requires if find_spec(name) is None]
        others = dict.fromkeys(each for each in (self.device, work.device) if each not in (None, device.type))
        reasons += [f"needs a {each} device, got {device.type}" for each in others]
        return reasons if work.job in self.builders else [*reasons, f"does not implement {work.job}"]


@dataclass(frozen=True)
class Benchmark:
    """Rows to be measured: every case at every batch, all variants side by side.

    Args:
        work: a name in `registry.WORKS`.
        cases: names in `cases.CASES`.
        batches: numbers of samples per call.
        variants: names in `registry.VARIANTS`; the first is the one that the report's ratios refer to.
        threads: "one", "all", both, or "doubling" from one to all; each is timed in its own right.
        memory: whether a training step's memory is measured too.
    """

    work: str
    cases: tuple[str, ...]
    batches: tuple[int, ...]
    variants: tuple[str, ...]
    threads: tuple[Literal["one", "all", "doubling"], ...] = ("one", "all")
    memory: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the results: variants timed against each other on the same inputs."""

    work: Work
    case: Case
    batch: int
    threads: int
    variants: tuple[Variant, ...]
    memory: bool = False

    @property
    def name(self) -> str:
        """As in `inverse-ogbench-256-threads_1`; unique in a suite."""
        return f"{self.work.name}-{self.case.name}-{self.batch}-threads_{self.threads}"


def rows(
    benchmarks: Sequence[Benchmark], works: Mapping[str, Work], variants: Mapping[str, Variant], all_threads: int
) -> list[Row]:
    """Expand declarations into rows, in the order declared.

    Args:
        benchmarks: the suite.
        works: by name.
        variants: by name.
        all_threads: what "all" means on this machine.

    Raises:
        ValueError: a name is unknown, or two declarations make the same row.
    """
    found: dict[str, Row] = {}
    for benchmark in benchmarks:
        counts = sorted({count for threads in benchmark.threads for count in _thread_counts(threads, all_threads)})
        work = _look_up("work", works, benchmark.work)
        chosen = tuple(_look_up("variant", variants, name) for name in benchmark.variants)
        for name in benchmark.cases:
            for batch in benchmark.batches:
                for threads in counts:
                    row = Row(work, _look_up("case", CASES, name), batch, threads, chosen, benchmark.memory)
                    if row.name in found:
                        raise ValueError(f"benchmarks: {row.name} is declared twice")
                    found[row.name] = row
    return list(found.values())


def _thread_counts(threads: str, all_threads: int) -> list[int]:
    if threads == "doubling":
        return [*(2**power for power in range(all_threads.bit_length()) if 2**power < all_threads), all_threads]
    return [1] if threads == "one" else [all_threads]


def _look_up(kind: str, table: Mapping[str, Any], name: str) -> Any:
    if name not in table:
        raise ValueError(f"{kind}: expected one of {', '.join(table)}, got {name!r}")
    return table[name]
