"""nfkern's own flow, called as a user calls it; PyTorch's dispatcher picks the backend."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from nfkern import CouplingFlow
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.causal_problem import CausalProblem
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem
from nfkern.bench.problems.training import AdamWStep
from nfkern.kernels import use_reference


def stacked_gradients(flow: CouplingFlow) -> dict[str, torch.Tensor]:
    """Its parameters' gradients by name."""
    return {name: parameter.grad for name, parameter in flow.named_parameters() if parameter.grad is not None}


def log_prob(problem: FlowProblem) -> Implementation:
    """`flow.log_prob`."""
    return Implementation(problem.flow.log_prob)


def inverse(problem: FlowProblem) -> Implementation:
    """`flow.to_data`."""
    return Implementation(problem.flow.to_data)


def denoised_action(problem: FlowProblem) -> Implementation:
    """`flow.sample_denoised`."""

    def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return problem.flow.sample_denoised(SIGMA, (), context, noise=noise)

    return Implementation(act)


def training_step(problem: FlowProblem) -> Implementation:
    """Forward and backward through nfkern's ops, torch.optim.AdamW."""
    flow = copy.deepcopy(problem.flow)
    step = AdamWStep(flow.parameters(), lambda x, context: -flow(x, context).mean())
    return Implementation(step, lambda: stacked_gradients(flow))


BUILDERS: Mapping[str, Builder] = {
    "log_prob": log_prob,
    "inverse": inverse,
    "denoised_action": denoised_action,
    "training_step": training_step,
    "causal_log_prob": log_prob,
    "causal_inverse": inverse,
    "causal_training_step": training_step,
}


def _on_reference(builder: Builder) -> Builder:
    """The same calls while `use_reference()` is in force."""

    def build(problem: FlowProblem) -> Implementation:
        built = builder(problem)

        def run(*inputs: torch.Tensor) -> Any:
            with use_reference():
                return built.run(*inputs)

        return Implementation(run, built.gradients)

    return build


def iterated_inverse(problem: CausalProblem) -> Implementation:
    """`flow.to_data` of a causal flow by Jacobi iteration."""
    return Implementation(partial(problem.flow.to_data, method="jacobi"))


JACOBI_BUILDERS: Mapping[str, Builder] = {"causal_inverse": iterated_inverse}
REFERENCE_BUILDERS: Mapping[str, Builder] = {name: _on_reference(builder) for name, builder in BUILDERS.items()}


def training_step_bf16(problem: FlowProblem) -> Implementation:
    """The same under autocast: hidden products in bf16, parameters and optimizer in float32."""
    flow = copy.deepcopy(problem.flow)

    def loss(x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            log_prob: torch.Tensor = flow(x, context)
        return -log_prob.mean()

    return Implementation(AdamWStep(flow.parameters(), loss), lambda: stacked_gradients(flow))


BF16_BUILDERS: Mapping[str, Builder] = {"training_step": training_step_bf16}
