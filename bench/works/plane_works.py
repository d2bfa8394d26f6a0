"""Works of unsupervised exploration: densities of very many goals in a plane under one context.

NF-UGS commands the least likely of a thousand candidates in each of a thousand environments, a million log-densities
that share an empty context.

Prediction against measurement (two threads of an AMD EPYC, Zen 4): the conditioners' products of 2^20 points are 1.65
TFLOP, 7 s at the cores' peak. By tables, predicted 0.1 s, for a hundred passes over 4 MB and tables as dear as 4097
points; measured 0.116 s, and 0.211 on one thread (`bench/results/cpu-2026-11-26.json`). At 65536 points tables still
cost most of it: on one thread of an AMD EPYC without AVX-512 0.26 s, `flow.log_prob` 1.85, the reference under
torch.compile 2.66 and the naive flow 3.15, the last two in chunks (`bench/results/candidates-cpu-2026-11-27.json`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from nfkern import CouplingFlow
from nfkern.bench.core import gate
from nfkern.bench.core.cases import FlowCase
from nfkern.bench.core.declarations import Implementation, Mode, Precision
from nfkern.bench.problems import eager
from nfkern.bench.problems.flow_problem import SEED, random_flow
from nfkern.bench.rivals.compiled import compile_whole
from nfkern.bench.rivals.reference_flow import ReferenceFlow
from nfkern.flows.tabulated import tabulated_log_prob_2d

# Points that the gate compares.
COMPARED = 4096
# In nats, of the tables: their default tolerance, stretched by the blocks that follow.
LARGEST_ERROR, MEDIAN_ERROR = 0.05, 5e-4
# Points at once in PyTorch's flows, whose activations then stay in the caches: 2^15 of them took 3.4 s in eager PyTorch
# and 2.0 compiled, in chunks of 4096 2.0 and 1.2, of 1024 1.6 and 1.3 (2026-11, one thread without AVX-512, noisy).
CHUNK = 1 << 10


@dataclass(frozen=True)
class PlaneProblem:
    """A flow over a plane, points, one context for all of them, and the first points' right densities.

    Attributes:
        exact: in float64, of the first `COMPARED` points.
        single: the same in float32.
    """

    case: FlowCase
    batch: int
    flow: CouplingFlow
    inputs: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    exact: torch.Tensor
    single: torch.Tensor

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.flow.parameters())


class CandidateDensities:
    """Log-densities of goals that share an empty context."""

    name = "candidate_log_prob"
    mode: Mode = "inference"
    device = None

    def context(self) -> AbstractContextManager[Any]:
        """No autograd is involved."""
        return torch.inference_mode()

    def prepare(self, case: FlowCase, batch: int, device: torch.device) -> PlaneProblem:
        """Points twice as far spread as the base, so that some are unlikely."""
        flow, generator = random_flow(case).to(device), torch.Generator().manual_seed(SEED)
        x = 2 * torch.randn(batch, 2, generator=generator)
        nothing = torch.zeros(case.context_features)
        first, contexts = x[:COMPARED].to(device), nothing.expand(min(batch, COMPARED), -1).to(device)
        with self.context():
            exact, single = (
                eager.EagerFlow.like(flow, dtype).log_prob(first.to(dtype), contexts.to(dtype))
                for dtype in (torch.float64, torch.float32)
            )
        return PlaneProblem(case, batch, flow, ((x.to(device), nothing.to(device)),), exact, single)

    def check(self, problem: PlaneProblem, implementation: Implementation, precision: Precision) -> str | None:
        """Whether the first points' densities are not the reference's within the derived tolerance."""
        found, terms = implementation(*problem.inputs[0]), problem.case.features * (problem.case.blocks + 1)
        return _unlike_densities(problem, found) or gate.disagreement(
            "log_prob", found[:COMPARED], problem.exact, problem.single, gate.EPSILON[precision], terms
        )


def _unlike_densities(problem: PlaneProblem, found: torch.Tensor) -> str | None:
    if found.shape == (problem.batch,) and torch.isfinite(found).all():
        return None
    return f"log_prob: expected {problem.batch} finite numbers, got shape {tuple(found.shape)}"


def _beyond_tables(problem: PlaneProblem, implementation: Implementation) -> str | None:
    """Whether the first points' errors are larger than the tables' are meant to be."""
    found = implementation(*problem.inputs[0])
    if reason := _unlike_densities(problem, found):
        return reason
    errors = (found[:COMPARED].double() - problem.exact).abs()
    largest, median = errors.max().item(), errors.median().item()
    if largest > LARGEST_ERROR or median > MEDIAN_ERROR:
        return f"log_prob: errors of {largest:.2g} at most and {median:.2g} in the median"
    return None


def _in_chunks(density: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Implementation:
    return Implementation(lambda x, context: torch.cat([density(part, context) for part in x.split(CHUNK)]))


def naive(problem: PlaneProblem) -> Implementation:
    """The naive flow, the context repeated for every point."""
    flow = eager.EagerFlow.like(problem.flow, torch.float32)
    return _in_chunks(lambda x, context: flow.log_prob(x, context.expand(len(x), -1)))


def compiled(problem: PlaneProblem) -> Implementation:
    """The stacked reference under torch.compile, which projects the shared context once in a chunk."""
    density = compile_whole(ReferenceFlow(problem.flow).log_prob)
    return _in_chunks(lambda x, context: density(x, context[None]))


def one_call(problem: PlaneProblem) -> Implementation:
    """`flow.log_prob`, which projects the shared context once."""
    return Implementation(problem.flow.log_prob)


def tables(problem: PlaneProblem) -> Implementation:
    """`tabulated_log_prob_2d`."""
    run = partial(tabulated_log_prob_2d, problem.flow)
    return Implementation(run, check=partial(_beyond_tables, problem))
