"""Works of flows: density, inverse, the denoised action and a training step."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from nfkern import CouplingFlow
from nfkern.bench.core import gate
from nfkern.bench.core.cases import FlowCase
from nfkern.bench.core.declarations import Implementation, Mode, Precision
from nfkern.bench.problems import eager
from nfkern.bench.problems.flow_problem import SEED, FlowProblem, Results, random_flow

_KINK_MARGIN = 2e-5
"""float32 preactivations are off by up to 7e-6 in twelve blocks of `chunked` (measured 2026-11, against float64)."""


@dataclass(frozen=True)
class FlowWork:
    """A job done by a flow.

    Args:
        name: also the reference's builder in `baselines.eager`.
        mode: "training" if autograd records.
        differentiates: its results hold derivatives, which jump where a LeakyReLU's input changes sign.
        grad_state: makes autograd's state around every call.
        results: runs an implementation over all inputs and names its results, the batch first.
        terms: how many terms each element of a result sums, from case and batch.
    """

    name: str
    mode: Mode
    differentiates: bool
    grad_state: Callable[[], AbstractContextManager[Any]]
    results: Callable[[Implementation, Any], Results]
    terms: Callable[[FlowCase, int], int]
    device: ClassVar[str | None] = None

    def context(self) -> AbstractContextManager[Any]:
        """Autograd's state around every call."""
        return self.grad_state()

    def prepare(self, case: FlowCase, batch: int, device: torch.device) -> FlowProblem:
        """Random weights and inputs, and the reference's results for them."""
        flow = random_flow(case).to(device)
        inputs = self._inputs(flow, batch, device)
        problem = FlowProblem(case, batch, flow, inputs, {}, {})
        for dtype, found in ((torch.float64, problem.exact), (torch.float32, problem.single)):
            cast = [tuple(tensor.to(dtype) for tensor in pair) for pair in inputs]
            with self.context():
                found.update(self.results(eager.BUILDERS[self.name](problem, dtype), cast))
        return problem

    def _inputs(
        self, flow: CouplingFlow, batch: int, device: torch.device
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Standard normal inputs; where derivatives are compared, none at which rounding decides about a kink."""
        generator = torch.Generator().manual_seed(SEED)
        sets = 8 if batch <= 256 else 2
        size = (sets * batch, flow.features + flow.context_features)
        rows = torch.randn(size, generator=generator)
        if self.differentiates:
            exact = eager.EagerFlow.like(flow, torch.float64)
            function = exact.to_data if self.mode == "inference" else exact.to_latent
            pending = torch.arange(len(rows))
            while len(pending):
                x, context = rows[pending].to(device, torch.float64).split([flow.features, flow.context_features], 1)
                near = exact.kink_distance(function, x, context).cpu() < _KINK_MARGIN
                pending = pending[near]
                rows[pending] = torch.randn(len(pending), size[1], generator=generator)
        pairs = (part.split([flow.features, flow.context_features], 1) for part in rows.to(device).split(batch))
        return tuple((x.contiguous(), context.contiguous()) for x, context in pairs)

    def check(self, problem: FlowProblem, implementation: Implementation, precision: Precision) -> str | None:
        """The first result that is not the reference's within the derived tolerance."""
        terms = self.terms(problem.case, problem.batch)
        found = self.results(implementation, problem.inputs)
        return gate.first_disagreement(found, problem.exact, problem.single, precision, terms)


def batch_of_densities(implementation: Implementation, inputs: Any) -> Results:
    """Log-densities of all sets of inputs."""
    return {"log_prob": torch.stack([implementation(*pair) for pair in inputs])}


def batch_of_inverses(implementation: Implementation, inputs: Any) -> Results:
    """Data and log-determinants of all sets of inputs."""
    x, log_det = zip(*(implementation(*pair) for pair in inputs), strict=True)
    return {"x": torch.stack(x), "log_det": torch.stack(log_det)}


def batch_of_actions(implementation: Implementation, inputs: Any) -> Results:
    """Actions of all sets of inputs."""
    return {"action": torch.stack([implementation(*pair) for pair in inputs])}


def training_results(implementation: Implementation, inputs: Any) -> Results:
    """Gradients of the first step, and the losses of all: they tell whether the parameters moved as they should."""
    assert implementation.gradients is not None
    losses = [implementation(*inputs[0])]
    gradients = {f"gradient of {name}": value.clone() for name, value in implementation.gradients().items()}
    losses += [implementation(*pair) for pair in inputs[1:]]
    return {"losses": torch.stack(losses), **gradients}


def _event_terms(case: FlowCase, batch: int) -> int:
    """A log-density sums every feature's scale in every block, and the base."""
    return case.features * (case.blocks + 1)


def _batch_terms(case: FlowCase, batch: int) -> int:
    """A gradient and a loss sum over the batch."""
    return batch * _event_terms(case, batch)


FLOW_WORKS = (
    FlowWork("log_prob", "inference", False, torch.inference_mode, batch_of_densities, _event_terms),
    FlowWork("inverse", "inference", False, torch.inference_mode, batch_of_inverses, _event_terms),
    # no_grad, not inference_mode: the baselines' score comes from autograd.
    FlowWork("denoised_action", "inference", True, torch.no_grad, batch_of_actions, _event_terms),
    FlowWork("training_step", "training", True, nullcontext, training_results, _batch_terms),
)
