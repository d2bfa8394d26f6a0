"""What unsupervised exploration is measured at: densities of very many goals in a plane under one context.

NF-UGS commands the least likely of a thousand candidates in each of a thousand environments, a million log-densities
that share an empty context.

Prediction against measurement (two threads of an AMD EPYC, Zen 4): the conditioners' products of 2^20 points are 1.65
TFLOP, 7 s at the cores' peak. By tables, predicted 0.1 s, for a hundred passes over 4 MB and tables as dear as 4097
points; measured 0.116 s, and 0.211 on one thread (`bench/results/cpu-2026-11-26.json`). At 65536 points, where tables
still cost most of it, 76 ms against 0.51 s of `flow.log_prob` and 2.6 s of the naive flow.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from nfkern import CouplingFlow
from nfkern.bench.baselines import eager
from nfkern.bench.cases import FlowCase
from nfkern.bench.declarations import Implementation, Mode, Precision
from nfkern.bench.flow_problem import SEED, random_flow
from nfkern.plane import plane_log_prob

# Points that the gate compares, in nats: the tables' default tolerance, stretched by the blocks that follow.
COMPARED, LARGEST_ERROR, MEDIAN_ERROR = 4096, 0.05, 5e-4
# Points at once in the eager flow, whose activations would fill the memory.
CHUNK = 1 << 16


@dataclass(frozen=True)
class PlaneProblem:
    """A flow over a plane, points, one context for all of them, and the first points' right densities."""

    case: FlowCase
    batch: int
    flow: CouplingFlow
    inputs: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    exact: torch.Tensor

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.flow.parameters())


class CandidateDensities:
    """Log-densities of goals that share an empty context."""

    name = "candidate_log_prob"
    mode: Mode = "inference"

    def context(self) -> AbstractContextManager[Any]:
        """No autograd is involved."""
        return torch.inference_mode()

    def prepare(self, case: FlowCase, batch: int, device: torch.device) -> PlaneProblem:
        """Points twice as far spread as the base, so that some are unlikely."""
        flow, generator = random_flow(case).to(device), torch.Generator().manual_seed(SEED)
        x = 2 * torch.randn(batch, 2, generator=generator)
        nothing = torch.zeros(case.context_features)
        first = x[:COMPARED].double()
        with self.context():
            exact = eager.EagerFlow.like(flow, torch.float64).log_prob(
                first.to(device), nothing.double().expand(len(first), -1).to(device)
            )
        return PlaneProblem(case, batch, flow, ((x.to(device), nothing.to(device)),), exact)

    def check(self, problem: PlaneProblem, implementation: Implementation, precision: Precision) -> str | None:
        """Whether the first points' errors are larger than the tables' are meant to be."""
        found = implementation(*problem.inputs[0])
        if found.shape != (problem.batch,) or not torch.isfinite(found).all():
            return f"log_prob: expected {problem.batch} finite numbers, got shape {tuple(found.shape)}"
        errors = (found[:COMPARED].double() - problem.exact).abs()
        largest, median = errors.max().item(), errors.median().item()
        if largest > LARGEST_ERROR or median > MEDIAN_ERROR:
            return f"log_prob: errors of {largest:.2g} at most and {median:.2g} in the median"
        return None


def in_chunks(problem: PlaneProblem) -> Implementation:
    """The naive flow, the context repeated for every point."""
    flow = eager.EagerFlow.like(problem.flow, torch.float32)

    def run(x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return torch.cat([flow.log_prob(part, context.expand(len(part), -1)) for part in x.split(CHUNK)])

    return Implementation(run)


def one_call(problem: PlaneProblem) -> Implementation:
    """`flow.log_prob`, which projects the shared context once."""
    return Implementation(problem.flow.log_prob)


def tables(problem: PlaneProblem) -> Implementation:
    """`plane_log_prob`."""
    return Implementation(lambda x, context: plane_log_prob(problem.flow, x, context))
