"""torch.compile, default mode, of the naive flow and of the stacked reference."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch

from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.eager import EagerFlow
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem
from nfkern.bench.problems.training import AdamWStep
from nfkern.bench.rivals.reference_flow import INFERENCE_WORKS, ReferenceFlow, training_loss
from nfkern.bench.rivals.stacked import stacked_gradients

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


def with_own_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """PyTorch keeps graphs with the code that it compiled, for all modules of a class together."""

    def whole(*inputs: Any) -> Any:
        return function(*inputs)

    return FunctionType(whole.__code__.replace(), whole.__globals__, closure=whole.__closure__)


def compile_whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """One shape, one graph: fullgraph makes a silent fall-back to eager an error."""
    return torch.compile(with_own_code(function), dynamic=False, fullgraph=True)


def eager_log_prob(problem: FlowProblem) -> Implementation:
    """The naive density, compiled."""
    return Implementation(compile_whole(EagerFlow.like(problem.flow).requires_grad_(False).log_prob))


def eager_inverse(problem: FlowProblem) -> Implementation:
    """The naive inverse, compiled."""
    return Implementation(compile_whole(EagerFlow.like(problem.flow).requires_grad_(False).to_data))


def eager_denoised_action(problem: FlowProblem) -> Implementation:
    """Inverse and density compiled, autograd through the latter's compiled backward."""
    flow = EagerFlow.like(problem.flow).requires_grad_(False)
    to_data = compile_whole(flow.to_data)
    total = compile_whole(lambda x, context: flow.log_prob(x, context).sum())

    def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = to_data(noise, context)[0]
        with torch.enable_grad():
            x = x.requires_grad_()
            (score,) = torch.autograd.grad(total(x, context), x)
        action: torch.Tensor = x.detach() + SIGMA**2 * score
        return action

    return Implementation(act)


def eager_training_step(problem: FlowProblem) -> Implementation:
    """Forward and backward compiled, the optimiser as everywhere."""
    flow = EagerFlow.like(problem.flow)
    loss = compile_whole(lambda x, context: -flow.log_prob(x, context).mean())
    return Implementation(AdamWStep(flow.parameters(), loss), flow.gradients)


def reference(problem: FlowProblem, work: str, compute_dtype: torch.dtype | None = None) -> Implementation:
    """A work of acting by the stacked reference, compiled."""
    return Implementation(compile_whole(getattr(ReferenceFlow(problem.flow, compute_dtype), work)))


def reference_training_step(
    problem: FlowProblem, compute_dtype: torch.dtype | None = None, compiler: Compiler = compile_whole
) -> Implementation:
    """The stacked loss compiled with the composition of its matrices; its backward is the compiler's."""
    flow = copy.deepcopy(problem.flow)
    loss = compiler(lambda x, context: training_loss(flow, x, context, compute_dtype))
    return Implementation(AdamWStep(flow.parameters(), loss), lambda: stacked_gradients(flow))


EAGER_BUILDERS: Mapping[str, Builder] = {
    "log_prob": eager_log_prob,
    "inverse": eager_inverse,
    "denoised_action": eager_denoised_action,
    "training_step": eager_training_step,
}

REFERENCE_BUILDERS: Mapping[str, Callable[..., Implementation]] = {
    **{work: partial(reference, work=work) for work in INFERENCE_WORKS},
    "training_step": reference_training_step,
}

REFERENCE_BF16_BUILDERS: Mapping[str, Builder] = {
    name: partial(builder, compute_dtype=torch.bfloat16) for name, builder in REFERENCE_BUILDERS.items()
}
