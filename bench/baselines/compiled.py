"""torch.compile, default mode, of the naive flow and of the stacked reference.

The stacked flow's ops are opaque to a compiler, so the reference's plain functions are compiled instead: the compiler
sees all of their arithmetic. For inference its mixing matrices are composed once, as nfkern does.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.nn.functional import linear

from nfkern import CouplingFlow
from nfkern.bench.baselines.eager import EagerFlow
from nfkern.bench.baselines.stacked import stacked_gradients
from nfkern.bench.baselines.training import AdamWStep
from nfkern.bench.declarations import Builder, Implementation
from nfkern.bench.flow_problem import SIGMA, FlowProblem
from nfkern.kernels import CouplingParameters
from nfkern.kernels.base import reference as base
from nfkern.kernels.coupling import reference as coupling
from nfkern.kernels.plu import reference as plu


def compile_whole(function: Callable[..., Any]) -> Callable[..., Any]:
    """One shape, one graph: fullgraph makes a silent fall-back to eager an error."""
    return torch.compile(function, dynamic=False, fullgraph=True)


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


def reference_log_prob(problem: FlowProblem, compute_dtype: torch.dtype | None = None) -> Implementation:
    """The stacked density, compiled."""
    flow, matrices = problem.flow, _composed(problem.flow, inverse=False)
    return Implementation(compile_whole(lambda x, context: _log_prob(flow, matrices, x, context, compute_dtype)))


def reference_inverse(problem: FlowProblem, compute_dtype: torch.dtype | None = None) -> Implementation:
    """The stacked inverse, compiled."""
    flow, matrices = problem.flow, _composed(problem.flow, inverse=True)

    def to_data(z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, log_det, *_ = coupling.to_data(
            z, _context_term(flow, context), *matrices, _conditioners(flow), flow.norm_eps, None, compute_dtype
        )
        return x, log_det

    return Implementation(compile_whole(to_data))


def reference_denoised_action(problem: FlowProblem, compute_dtype: torch.dtype | None = None) -> Implementation:
    """The stacked one-sweep sample and score, compiled."""
    return Implementation(compile_whole(one_sweep(problem.flow, compute_dtype)))


def one_sweep(flow: CouplingFlow, compute_dtype: torch.dtype | None = None) -> Callable[..., torch.Tensor]:
    """The reference's function (noise, context) -> denoised action, in plain PyTorch."""
    (mixing, _), (inverse, log_det) = _composed(flow, inverse=False), _composed(flow, inverse=True)

    def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        term = _context_term(flow, context)
        x, _, score = coupling.to_data_with_score(
            noise, term, mixing, inverse, log_det, _conditioners(flow), flow.norm_eps, None, compute_dtype
        )
        return x + SIGMA**2 * score

    return act


def reference_training_step(problem: FlowProblem, compute_dtype: torch.dtype | None = None) -> Implementation:
    """The stacked loss compiled with the composition of its matrices; its backward is the compiler's."""
    flow = copy.deepcopy(problem.flow)

    def loss(x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        matrices = plu.compose(flow.mixing_lu, flow.permutation, False)
        return -_log_prob(flow, matrices, x, context, compute_dtype).mean()

    return Implementation(AdamWStep(flow.parameters(), compile_whole(loss)), lambda: stacked_gradients(flow))


def _log_prob(
    flow: CouplingFlow,
    matrices: tuple[torch.Tensor, torch.Tensor],
    x: torch.Tensor,
    context: torch.Tensor,
    compute_dtype: torch.dtype | None,
) -> torch.Tensor:
    z, log_det, *_ = coupling.to_latent(
        x, _context_term(flow, context), *matrices, _conditioners(flow), flow.norm_eps, None, compute_dtype
    )
    log_prob: torch.Tensor = base.standard_normal_log_prob(z) + log_det
    return log_prob


def _context_term(flow: CouplingFlow, context: torch.Tensor) -> torch.Tensor:
    assert flow.context_weight is not None
    product = linear(context, flow.context_weight.flatten(0, 2), flow.input_bias.flatten())
    return product.view(len(context), *flow.input_bias.shape)


def _conditioners(flow: CouplingFlow) -> CouplingParameters:
    return CouplingParameters(*(getattr(flow, name) for name in CouplingParameters._fields))


@torch.no_grad()
def _composed(flow: CouplingFlow, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return plu.compose(flow.mixing_lu, flow.permutation, inverse)


EAGER_BUILDERS: Mapping[str, Builder] = {
    "log_prob": eager_log_prob,
    "inverse": eager_inverse,
    "denoised_action": eager_denoised_action,
    "training_step": eager_training_step,
}

REFERENCE_BUILDERS: Mapping[str, Callable[..., Implementation]] = {
    "log_prob": reference_log_prob,
    "inverse": reference_inverse,
    "denoised_action": reference_denoised_action,
    "training_step": reference_training_step,
}

REFERENCE_BF16_BUILDERS: Mapping[str, Builder] = {
    name: partial(builder, compute_dtype=torch.bfloat16) for name, builder in REFERENCE_BUILDERS.items()
}
