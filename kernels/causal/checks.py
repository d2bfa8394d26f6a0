"""Checks of the causal ops: arguments that do not belong together and settings out of range are refused."""

import math

import torch

from nfkern.kernels.causal.parameters import CausalParameters
from nfkern.kernels.causal.reference import Settings
from nfkern.kernels.dispatch.checks import (
    check_floating,
    check_groups,
    check_like,
    check_norm_eps,
    check_scale_bound,
    check_tensor,
)


def check_latent(
    x: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    keep_hidden: bool = False,
) -> None:
    """Check the arguments of `to_latent`."""
    _check("x", x, context_term, parameters, settings)


def check_score(z: torch.Tensor, context_term: torch.Tensor, parameters: CausalParameters, settings: Settings) -> None:
    """Check the arguments of `to_data_with_score`."""
    _check("z", z, context_term, parameters, settings)


def check_sampling(
    z: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    unconditional_term: torch.Tensor | None = None,
    guidance: float = 0.0,
    annealed: bool = False,
    tolerance: float | None = None,
) -> None:
    """Check the arguments of `to_data`."""
    _check("z", z, context_term, parameters, settings)
    check_tolerance(tolerance)
    if not 0 <= guidance < math.inf:
        raise ValueError(f"guidance: expected a finite number >= 0, got {guidance!r}")
    if guidance and unconditional_term is None:
        raise ValueError(f"unconditional_term: expected the term of no context for guidance={guidance}, got None")
    if unconditional_term is not None:
        blocks, _, width = parameters.position.shape
        check_tensor("unconditional_term", unconditional_term, ("groups", blocks, width))
        check_like("unconditional_term", unconditional_term, z, "z")
        if unconditional_term.shape[0] != 1:
            raise ValueError(f"unconditional_term: expected one group, got {unconditional_term.shape[0]}")


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance that is negative or not finite."""
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance: expected a finite number >= 0, got {tolerance!r}")


def check_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    parameter_grads: bool,
    kept: torch.Tensor | None = None,
) -> None:
    """Check the arguments of the derivative of `to_latent`."""
    _check("grad", grad, context_term, parameters, settings)
    blocks, layers, hidden, width = parameters.up_weight.shape
    rows, tokens, _ = grad.shape
    check_tensor("grad_log_det", grad_log_det, (rows,))
    check_tensor("inputs", inputs, (blocks, *grad.shape))
    check_like("grad_log_det", grad_log_det, grad, "grad")
    check_like("inputs", inputs, grad, "grad")
    if kept is not None:
        length = tokens - 1 + settings.prefix
        check_tensor("kept", kept, (blocks, layers, rows * length * (5 * width + hidden)))
        check_like("kept", kept, grad, "grad")


def _check(
    name: str, x: torch.Tensor, context_term: torch.Tensor, parameters: CausalParameters, settings: Settings
) -> None:
    heads, prefix, norm_eps, scale_bound, compute_dtype = settings
    check_tensor(name, x, getattr(x, "shape", ()))
    parameters.check(x, compute_dtype)
    blocks, positions, width = parameters.position.shape
    features, least = parameters.input_weight.shape[-1], 1 if prefix else 2
    shape = ("rows", f"{least} to {positions} tokens", features)
    check_tensor(name, x, shape)
    if not least <= x.shape[1] <= positions:
        raise ValueError(f"{name}: expected shape ({', '.join(map(str, shape))}), got {tuple(x.shape)}")
    check_floating(name, x)
    if heads < 1 or width % heads:
        raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
    check_tensor("context_term", context_term, ("groups", blocks, width))
    check_groups("context_term", context_term.shape[0], x.shape[0], context_term.shape)
    check_like("context_term", context_term, x, name)
    check_norm_eps(norm_eps)
    check_scale_bound(scale_bound, x.dtype)
