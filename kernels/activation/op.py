"""`hidden_activation`: checks, registration and gradient."""

from typing import Any, Literal

import torch

from nfkern.kernels.activation import reference
from nfkern.kernels.dispatch.checks import check_floating, check_norm_eps, check_tensor
from nfkern.kernels.dispatch.native_extension import extension_kernel
from nfkern.kernels.dispatch.op_transforms import Rows
from nfkern.kernels.dispatch.registry import define
from nfkern.kernels.dispatch.triton_backend import padded, triton_kernel

Activation = Literal["silu", "gelu"]

_ARGUMENTS = (
    "Tensor x, Tensor bias, Tensor? norm_weight, Tensor? norm_bias, float norm_eps, str activation, bool norm_first"
)
_MAX_WIDTH = 4096


def _check(
    x: torch.Tensor,
    bias: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    norm_eps: float,
    activation: str,
    norm_first: bool,
) -> None:
    if x.ndim < 2:
        raise ValueError(f"x: expected shape (..., rows, width), got {tuple(x.shape)}")
    check_tensor("x", x, x.shape)
    check_floating("x", x)
    if (norm_weight is None) != (norm_bias is None):
        raise ValueError("norm_bias: expected a tensor where norm_weight is one, and None where it is None")
    for name, parameter in (("bias", bias), ("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if parameter is not None:
            check_tensor(name, parameter, (*x.shape[:-2], x.shape[-1]))
            _check_parameter(name, parameter, x)
    check_norm_eps(norm_eps)
    if activation not in ("silu", "gelu"):
        raise ValueError(f"activation: expected silu or gelu, got {activation!r}")


def _check_parameter(name: str, parameter: torch.Tensor, x: torch.Tensor) -> None:
    """Refuse another dtype or device than those of x; beside 16 bits parameters may be float32."""
    dtypes = dict.fromkeys([x.dtype, *([torch.float32] if x.dtype.itemsize == 2 else [])])
    if parameter.dtype not in dtypes or parameter.device != x.device:
        wanted = " or ".join(map(str, dtypes))
        raise TypeError(f"{name}: expected {wanted} on {x.device} as x, got {parameter.dtype} on {parameter.device}")


def _check_backward(grad: torch.Tensor, x: torch.Tensor, *rest: Any) -> None:
    _check(x, *rest)
    check_tensor("grad", grad, x.shape)
    if grad.dtype != x.dtype or grad.device != x.device:
        raise TypeError(f"grad: expected {x.dtype} on {x.device} as x, got {grad.dtype} on {grad.device}")


def _cpu_reasons(x: torch.Tensor) -> list[str]:
    """Return the reasons for which the native kernels do not take rows like `x`; empty if they do."""
    found = []
    if x.dtype == torch.float16:
        found.append(f"{x.dtype}: the kernels take float32, float64 and bfloat16")
    if not x.numel():
        found.append("no rows")
    return found


def _triton_reasons(x: torch.Tensor) -> list[str]:
    """Return the reasons for which the Triton kernels do not take rows like `x`; empty if they do."""
    found = []
    if x.dtype == torch.float64:
        found.append(f"{x.dtype}: the kernels take float32 and 16 bits")
    if padded(x.shape[-1]) > _MAX_WIDTH:
        found.append(f"width {x.shape[-1]}: the kernels hold up to {_MAX_WIDTH}")
    if not x.numel():
        found.append("no rows")
    return found


def _fake_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    *settings: Any,
) -> tuple[torch.Tensor, ...]:
    nothing = (*bias.shape[:-1], 0)
    norms = (
        bias.new_empty(nothing) if each is None else each.new_empty(each.shape) for each in (norm_weight, norm_bias)
    )
    return x.new_empty(x.shape), bias.new_empty(bias.shape), *norms


def _keep_all(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, norm_eps, activation, norm_first = inputs
    ctx.save_for_backward(*tensors)
    ctx.settings = (norm_eps, activation, norm_first)


def _second_backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
    """Return the derivative of the derivative, through the reference's operations."""
    tensors = ctx.saved_tensors
    present = [index for index, tensor in enumerate(tensors) if tensor is not None]

    def derivative(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        arguments: list[Any] = [None] * len(tensors)
        for index, tensor in zip(present, given, strict=True):
            arguments[index] = tensor
        return reference.hidden_activation_backward(*arguments, *ctx.settings)

    found = dict(zip(present, torch.func.vjp(derivative, *(tensors[i] for i in present))[1](grads), strict=True))
    return *(found.get(index) for index in range(len(tensors))), None, None, None


_backward_op = define(
    "hidden_activation_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    rank=None,
    reference=reference.hidden_activation_backward,
    fake=_fake_backward,
    backward=_second_backward,
    check=_check_backward,
    setup_context=_keep_all,
    cpu=extension_kernel("hidden_activation_backward", None, lambda grad, x, *_: _cpu_reasons(x)),
    cuda=triton_kernel(
        "activation.triton_launch", "hidden_activation_backward", lambda grad, x, *_: _triton_reasons(x)
    ),
)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    x, bias, *norm = ctx.saved_tensors
    grad_x, grad_bias, *grad_norm = _backward_op(grad, x, bias, *norm, *ctx.settings)
    if norm[0] is None:
        grad_norm = [None, None]
    return grad_x, grad_bias, *grad_norm, None, None, None


_op = define(
    "hidden_activation",
    f"({_ARGUMENTS}) -> Tensor",
    rank=None,
    reference=reference.hidden_activation,
    fake=lambda x, *_: x.new_empty(x.shape),
    backward=_backward,
    check=_check,
    setup_context=_keep_all,
    # Without members the first dimension has the rows.
    rows=Rows({0: 0}, (0,), prepare=lambda args: args if args[1].ndim == 1 else None),
    cpu=extension_kernel("hidden_activation", None, lambda x, *_: _cpu_reasons(x)),
    cuda=triton_kernel("activation.triton_launch", "hidden_activation", lambda x, *_: _triton_reasons(x)),
)


def hidden_activation(
    x: torch.Tensor,
    bias: torch.Tensor,
    norm_weight: torch.Tensor | None = None,
    norm_bias: torch.Tensor | None = None,
    *,
    norm_eps: float = 1e-5,
    activation: Activation = "silu",
    norm_first: bool = True,
) -> torch.Tensor:
    """Add a hidden layer's bias to its product and apply activation and LayerNorm, in one pass.

    Args:
        x: (*members, rows, width), the product without its bias; members are networks with weights of their own.
        bias: (*members, width), in the dtype of x, or float32 beside 16 bits.
        norm_weight: LayerNorm's, like the bias; None for no LayerNorm.
        norm_bias: LayerNorm's; None with `norm_weight`.
        norm_eps: LayerNorm's.
        activation: "silu", or "gelu" in its form with tanh.
        norm_first: whether LayerNorm comes before the activation, or after it.

    Returns:
        (*members, rows, width), in the dtype of x.

    Raises:
        ValueError: shapes that do not fit, or a setting; the message names the argument.
        TypeError: dtypes or devices that do not go with those of x.
    """
    result: torch.Tensor = _op(x, bias, norm_weight, norm_bias, norm_eps, activation, norm_first)
    return result
