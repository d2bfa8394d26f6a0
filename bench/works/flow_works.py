"""Works of flows, causal or not: density, inverse, the denoised action and a training step."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from nfkern import CausalFlow, CouplingFlow
from nfkern.bench.core import gate
from nfkern.bench.core.cases import CausalCase, FlowCase
from nfkern.bench.core.declarations import Implementation, Mode, Precision, Work
from nfkern.bench.problems.calls import called
from nfkern.bench.problems.eager import EagerFlow, NaiveFlow
from nfkern.bench.problems.eager_causal import EagerCausalFlow
from nfkern.bench.problems.encoded import EncodedFlow, EncodedModel, naive_encoded
from nfkern.bench.problems.flow_problem import SEED, Problem, Results, random_causal_flow, random_flow

_KINK_MARGIN = 2e-5
"""float32 preactivations are off by up to 7e-6 in twelve blocks of `chunked` (measured 2026-11, against float64)."""


def naive(
    flow: CouplingFlow | CausalFlow | EncodedFlow, dtype: torch.dtype = torch.float32
) -> NaiveFlow | EncodedModel:
    """Return the flow's definition in eager PyTorch."""
    if isinstance(flow, EncodedFlow):
        return naive_encoded(flow, dtype)
    return EagerFlow.like(flow, dtype) if isinstance(flow, CouplingFlow) else EagerCausalFlow.like(flow, dtype)


@dataclass(frozen=True)
class FlowWork(Work):
    """A job done by a flow.

    Args:
        name: as in `problems.calls.called`.
        mode: "training" if autograd records.
        grad_state: makes autograd's state around every call.
        results: runs an implementation over all inputs and names its results, the batch first.
        make: the flow of a case.
        away_from_kinks: its results hold derivatives, which jump where a LeakyReLU's input changes sign.
    """

    name: str
    mode: Mode
    grad_state: Callable[[], AbstractContextManager[Any]]
    results: Callable[[Implementation, Any], Results]
    make: Callable[[Any], Any] = random_flow
    away_from_kinks: bool = False

    def context(self) -> AbstractContextManager[Any]:
        """Autograd's state around every call."""
        return self.grad_state()

    def prepare(self, case: FlowCase | CausalCase, batch: int, device: torch.device) -> Problem[Any, Any]:
        """Random weights and inputs, and the reference's results for them."""
        flow = self.make(case).to(device)
        inputs = self._inputs(flow, batch, device)
        problem = Problem(case, batch, flow, inputs, {}, {})
        for dtype, found in ((torch.float64, problem.exact), (torch.float32, problem.single)):
            cast = [tuple(tensor.to(dtype) for tensor in pair) for pair in inputs]
            with self.context():
                found.update(self.results(called(naive(flow, dtype), self.name), cast))
        return problem

    def _inputs(
        self, flow: CouplingFlow | CausalFlow | EncodedFlow, batch: int, device: torch.device
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Standard normal inputs; where derivatives are compared, none at which rounding decides about a kink."""
        generator, sets = torch.Generator().manual_seed(SEED), 8 if batch <= 256 else 2
        sizes = [math.prod(flow.event_shape), flow.context_features]
        rows = torch.randn(sets * batch, sum(sizes), generator=generator)
        if self.away_from_kinks:
            exact: Any = naive(flow, torch.float64)
            function = exact.to_data if self.mode == "inference" else exact.to_latent
            pending = torch.arange(len(rows))
            while len(pending):
                near = exact.kink_distance(function, *rows[pending].to(device, torch.float64).split(sizes, 1))
                pending = pending[near.cpu() < _KINK_MARGIN]
                rows[pending] = torch.randn(len(pending), sum(sizes), generator=generator)
        pairs = (part.split(sizes, 1) for part in rows.to(device).split(batch))
        return tuple((x.reshape(-1, *flow.event_shape).contiguous(), context.contiguous()) for x, context in pairs)

    def check(self, problem: Problem[Any, Any], implementation: Implementation, precision: Precision) -> str | None:
        """The first result that is not the reference's within the derived tolerance."""
        # A log-density sums every number's scale in every block, and the base; a gradient and a loss, the batch too.
        terms = math.prod(problem.flow.event_shape) * (problem.case.blocks + 1)
        terms *= problem.batch if self.mode == "training" else 1
        found = self.results(implementation, problem.inputs)
        return gate.first_disagreement(found, problem.exact, problem.single, precision, terms)


def _densities(implementation: Implementation, inputs: Any) -> Results:
    return {"log_prob": torch.stack([implementation(*pair) for pair in inputs])}


def _inverses(implementation: Implementation, inputs: Any) -> Results:
    x, log_det = zip(*(implementation(*pair) for pair in inputs), strict=True)
    return {"x": torch.stack(x), "log_det": torch.stack(log_det)}


def _actions(implementation: Implementation, inputs: Any) -> Results:
    return {"action": torch.stack([implementation(*pair) for pair in inputs])}


def _training(implementation: Implementation, inputs: Any) -> Results:
    """Gradients of the first step, and the losses of all: they tell whether the parameters moved as they should."""
    assert implementation.gradients is not None
    losses = [implementation(*inputs[0])]
    gradients = {f"gradient of {name}": value.clone() for name, value in implementation.gradients().items()}
    losses += [implementation(*pair) for pair in inputs[1:]]
    return {"losses": torch.stack(losses), **gradients}


def _first_steps(implementation: Implementation, inputs: Any) -> Results:
    """As `_training` for two steps: from the third on, losses behind an encoder tell rounding errors from each other.

    AdamW's first steps are as long for a gradient that is nothing but rounding as for any other. In float32 losses were
    off by 2e-6 at the second step, by 1e-3 at the eighth (2026-12, `ogbench`, nfkern's reference and JAX alike).
    """
    return _training(implementation, inputs[:2])


FLOW_WORKS = (
    FlowWork("log_prob", "inference", torch.inference_mode, _densities),
    FlowWork("inverse", "inference", torch.inference_mode, _inverses),
    # no_grad, not inference_mode: the rivals' score comes from autograd.
    FlowWork("denoised_action", "inference", torch.no_grad, _actions, away_from_kinks=True),
    FlowWork("training_step", "training", nullcontext, _training, away_from_kinks=True),
)
ENCODED_WORKS = (
    FlowWork("encoded_training_step", "training", nullcontext, _first_steps, EncodedFlow, away_from_kinks=True),
)
CAUSAL_WORKS = (
    FlowWork("causal_log_prob", "inference", torch.inference_mode, _densities, random_causal_flow),
    FlowWork("causal_inverse", "inference", torch.inference_mode, _inverses, random_causal_flow),
    FlowWork("causal_training_step", "training", nullcontext, _training, random_causal_flow),
)
