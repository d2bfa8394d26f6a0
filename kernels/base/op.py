"""`standard_normal_log_prob`: checks, registration and gradient."""

from typing import Any

import torch

from nfkern.kernels.base import reference
from nfkern.kernels.registry import define, refuse_second_gradient

_backward_op = define(
    "standard_normal_log_prob_backward",
    "(Tensor grad, Tensor z) -> Tensor",
    rank=None,
    reference=reference.standard_normal_log_prob_backward,
    fake=lambda grad, z: torch.empty_like(z),
    backward=refuse_second_gradient("standard_normal_log_prob"),
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
    (z,) = ctx.saved_tensors
    grad_z: torch.Tensor = _backward_op(grad, z)
    return grad_z


_op = define(
    "standard_normal_log_prob",
    "(Tensor z) -> Tensor",
    rank=None,
    reference=reference.standard_normal_log_prob,
    fake=lambda z: z.new_empty(z.shape[:-1]),
    backward=_backward,
    setup_context=_setup_context,
)


def standard_normal_log_prob(z: torch.Tensor) -> torch.Tensor:
    """Log-density of N(0, I) in nats.

    Args:
        z: (..., features), floating point.

    Returns:
        (...).

    Raises:
        ValueError: z has no feature dimension.
    """
    if z.ndim < 1:
        raise ValueError(f"z: expected shape (..., features), got {tuple(z.shape)}")
    log_prob: torch.Tensor = _op(z)
    return log_prob
