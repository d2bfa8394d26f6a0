"""`standard_normal_log_prob`: checks, registration and gradient."""

from typing import Any

import torch

from nfkern.kernels.base import reference
from nfkern.kernels.dispatch.checks import check_floating, check_like, check_tensor
from nfkern.kernels.dispatch.native_extension import extension_kernel
from nfkern.kernels.dispatch.registry import define, refuse_second_gradient
from nfkern.kernels.dispatch.triton_backend import tensor_reasons, triton_kernel


def _check(z: torch.Tensor) -> None:
    if z.ndim < 1:
        raise ValueError(f"z: expected shape (..., features), got {tuple(z.shape)}")
    check_tensor("z", z, z.shape)
    check_floating("z", z)


def _check_backward(grad: torch.Tensor, z: torch.Tensor) -> None:
    _check(z)
    check_tensor("grad", grad, z.shape[:-1])
    check_like("grad", grad, z, "z")


_backward_op = define(
    "standard_normal_log_prob_backward",
    "(Tensor grad, Tensor z) -> Tensor",
    rank=None,
    reference=reference.standard_normal_log_prob_backward,
    fake=lambda grad, z: z.new_empty(z.shape),
    backward=refuse_second_gradient("standard_normal_log_prob"),
    check=_check_backward,
    cpu=extension_kernel("standard_normal_log_prob_backward", None),
    cuda=triton_kernel("base.triton_launch", "standard_normal_log_prob_backward", lambda grad, z: tensor_reasons(z)),
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
    check=_check,
    setup_context=_setup_context,
    cpu=extension_kernel("standard_normal_log_prob", None),
    cuda=triton_kernel("base.triton_launch", "standard_normal_log_prob", tensor_reasons),
)


def standard_normal_log_prob(z: torch.Tensor) -> torch.Tensor:
    """Log-density of N(0, I) in nats.

    Args:
        z: (..., features), floating point.

    Returns:
        (...).

    Raises:
        ValueError: z has no feature dimension.
        TypeError: z is not floating point.
    """
    log_prob: torch.Tensor = _op(z)
    return log_prob
