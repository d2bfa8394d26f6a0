"""Results without derivatives: an error inside transforms, which would take a missing derivative for zero."""

from collections.abc import Iterable
from typing import Any

import torch
from torch._C._functorch import TransformType
from torch.autograd import forward_ad

_PLAIN = torch.Tensor.__torch_dispatch__


def differentiating() -> bool:
    """Whether this call runs inside `torch.func` (grad, vjp, jacrev, jvp, jacfwd, ...) or forward-mode AD."""
    if forward_ad._current_level >= 0:
        return True
    if not torch._C._are_functorch_transforms_active():
        return False
    levels = torch._C._functorch.get_interpreter_stack()
    return any(level.key() in (TransformType.Grad, TransformType.Jvp) for level in levels)


def readable(tensor: torch.Tensor) -> bool:
    """Whether a tensor's numbers can be read: not by tracers, under `torch.vmap`, or where that synchronises."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    # `make_fx` and the like watch each operation; a fake tensor has no numbers.
    if torch._C._len_torch_dispatch_stack() or type(tensor).__torch_dispatch__ is not _PLAIN:
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def without_derivatives(
    what: str, results: tuple[torch.Tensor, ...], inputs: Iterable[torch.Tensor | None]
) -> tuple[torch.Tensor, ...]:
    """Return the results, such that a transform that differentiates them raises an error in place of giving zeros.

    Plain autograd has its own error: such results have no `grad_fn`.

    Args:
        what: the call and the way out of it, for the message.
        results: computed without gradients.
        inputs: the tensors that they depend on.
    """
    if not differentiating():
        return results
    tensors = [tensor for tensor in inputs if tensor is not None]
    constants: tuple[torch.Tensor, ...] = _Constant.apply(what, len(results), *results, *tensors)  # type: ignore[no-untyped-call]
    return constants


class _Constant(torch.autograd.Function):
    """The identity of the first of its tensors; derivatives with respect to any of them are refused."""

    generate_vmap_rule = True

    @staticmethod
    def forward(what: str, count: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.clone() for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.what = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        raise RuntimeError(f"{ctx.what}, or detach the result")

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> Any:
        raise RuntimeError(f"{ctx.what}, or detach the inputs")
