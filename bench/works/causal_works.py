"""Works of causal flows: density, inverse and a training step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from nfkern.bench.core import gate
from nfkern.bench.core.cases import CausalCase
from nfkern.bench.core.declarations import Implementation, Mode, Precision
from nfkern.bench.problems import eager_causal
from nfkern.bench.problems.causal_problem import CausalProblem, random_causal_flow
from nfkern.bench.problems.flow_problem import SEED, Results
from nfkern.bench.works.flow_works import batch_of_densities, batch_of_inverses, training_results


@dataclass(frozen=True)
class CausalWork:
    """A job done by a causal flow; members as those of `FlowWork`."""

    name: str
    mode: Mode
    grad_state: Callable[[], AbstractContextManager[Any]]
    results: Callable[[Implementation, Any], Results]
    sums_the_batch: bool
    device: ClassVar[str | None] = None

    def context(self) -> AbstractContextManager[Any]:
        """Autograd's state around every call."""
        return self.grad_state()

    def prepare(self, case: CausalCase, batch: int, device: torch.device) -> CausalProblem:
        """Random weights and inputs, and the reference's results for them."""
        flow, generator = random_causal_flow(case).to(device), torch.Generator().manual_seed(SEED)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(batch, *shape, generator=generator).to(device)

        sets = 8 if batch <= 256 else 2
        inputs = tuple((drawn(case.tokens, case.features), drawn(case.context_features)) for _ in range(sets))
        problem = CausalProblem(case, batch, flow, inputs, {}, {})
        for dtype, found in ((torch.float64, problem.exact), (torch.float32, problem.single)):
            cast = [tuple(tensor.to(dtype) for tensor in pair) for pair in inputs]
            with self.context():
                found.update(self.results(eager_causal.BUILDERS[self.name](problem, dtype), cast))
        return problem

    def check(self, problem: CausalProblem, implementation: Implementation, precision: Precision) -> str | None:
        """The first result that is not the reference's within the derived tolerance."""
        case = problem.case
        terms = case.tokens * case.features * (case.blocks + 1) * (problem.batch if self.sums_the_batch else 1)
        found = self.results(implementation, problem.inputs)
        return gate.first_disagreement(found, problem.exact, problem.single, precision, terms)


CAUSAL_WORKS = (
    CausalWork("causal_log_prob", "inference", torch.inference_mode, batch_of_densities, False),
    CausalWork("causal_inverse", "inference", torch.inference_mode, batch_of_inverses, False),
    CausalWork("causal_training_step", "training", nullcontext, training_results, True),
)
