"""Works of unsupervised exploration: densities of very many goals in a plane under one context.

NF-UGS commands the least likely of a thousand candidates in each of a thousand environments, a million log-densities
that share an empty context.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from nfkern.bench.core import gate
from nfkern.bench.core.cases import FlowCase
from nfkern.bench.core.declarations import Implementation, Precision, Work
from nfkern.bench.problems.eager import EagerFlow
from nfkern.bench.problems.flow_problem import SEED, FlowProblem, Problem, random_flow

# Points that the gate compares.
COMPARED = 4096
# In nats, of the tables: their default tolerance, stretched by the blocks that follow.
LARGEST_ERROR, MEDIAN_ERROR = 0.05, 5e-4
# Points at once in PyTorch's flows, whose activations then stay in the caches: 2^15 of them took 3.4 s in eager PyTorch
# and 2.0 compiled, in chunks of 4096 2.0 and 1.2, of 1024 1.6 and 1.3 (2026-11, one thread without AVX-512, noisy).
CHUNK = 1 << 10


class CandidateDensities(Work):
    """Log-densities of goals that share an empty context."""

    name = "candidate_log_prob"
    mode = "inference"

    def context(self) -> AbstractContextManager[Any]:
        """No autograd is involved."""
        return torch.inference_mode()

    def prepare(self, case: FlowCase, batch: int, device: torch.device) -> FlowProblem:
        """Points twice as far spread as the base, so that some are unlikely."""
        flow, generator = random_flow(case).to(device), torch.Generator().manual_seed(SEED)
        x = 2 * torch.randn(batch, 2, generator=generator)
        nothing = torch.zeros(case.context_features)
        first, contexts = x[:COMPARED].to(device), nothing.expand(min(batch, COMPARED), -1).to(device)
        with self.context():
            exact, single = (
                EagerFlow.like(flow, dtype).log_prob(first.to(dtype), contexts.to(dtype))
                for dtype in (torch.float64, torch.float32)
            )
        inputs = ((x.to(device), nothing.to(device)),)
        return Problem(case, batch, flow, inputs, {"log_prob": exact}, {"log_prob": single})

    def check(self, problem: FlowProblem, implementation: Implementation, precision: Precision) -> str | None:
        """Whether the first points' densities are not the reference's within the derived tolerance."""
        found, terms = implementation(*problem.inputs[0]), problem.case.features * (problem.case.blocks + 1)
        return _unlike_densities(problem, found) or gate.first_disagreement(
            {"log_prob": found[:COMPARED]}, problem.exact, problem.single, precision, terms
        )


def _unlike_densities(problem: FlowProblem, found: torch.Tensor) -> str | None:
    if found.shape == (problem.batch,) and torch.isfinite(found).all():
        return None
    return f"log_prob: expected {problem.batch} finite numbers, got shape {tuple(found.shape)}"


def beyond_tables(problem: FlowProblem, implementation: Implementation) -> str | None:
    """Whether the first points' errors are larger than the tables' are meant to be."""
    found = implementation(*problem.inputs[0])
    if reason := _unlike_densities(problem, found):
        return reason
    errors = (found[:COMPARED].double() - problem.exact["log_prob"]).abs()
    largest, median = errors.max().item(), errors.median().item()
    if largest > LARGEST_ERROR or median > MEDIAN_ERROR:
        return f"log_prob: errors of {largest:.2g} at most and {median:.2g} in the median"
    return None


def in_chunks(density: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Implementation:
    """A density of few points at once, for all of them."""
    return Implementation(lambda x, context: torch.cat([density(part, context) for part in x.split(CHUNK)]))
