"""`causal_affine`: checks, registration and gradient."""

from typing import Any

import torch

from nfkern.kernels.affine import reference
from nfkern.kernels.dispatch.checks import check_floating, check_like, check_scale_bound, check_tensor
from nfkern.kernels.dispatch.native_extension import extension_kernel
from nfkern.kernels.dispatch.op_transforms import Rows
from nfkern.kernels.dispatch.registry import define, refuse_second_gradient
from nfkern.kernels.dispatch.triton_backend import any_size, triton_kernel


def _check(
    x: torch.Tensor, pairs: torch.Tensor, log_det: torch.Tensor, flipped: bool, scale_bound: float | None
) -> None:
    check_tensor("x", x, ("rows", "tokens", "features"))
    check_floating("x", x)
    rows, tokens, features = x.shape
    given = pairs.shape[1] if pairs.ndim == 4 and pairs.shape[1] == tokens - 1 else tokens
    if pairs.shape != (rows, given, 2, features):
        raise ValueError(
            f"pairs: expected shape ({rows}, {tokens} or {tokens - 1}, 2, {features}), got {tuple(pairs.shape)}"
        )
    check_tensor("pairs", pairs, pairs.shape)
    check_tensor("log_det", log_det, (rows,))
    check_like("pairs", pairs, x)
    check_like("log_det", log_det, x)
    check_scale_bound(scale_bound, x.dtype)


def _check_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    x: torch.Tensor,
    pairs: torch.Tensor,
    flipped: bool,
    scale_bound: float | None,
) -> None:
    check_tensor("x", x, ("rows", "tokens", "features"))
    check_tensor("grad_log_det", grad_log_det, x.shape[:1])
    _check(x, pairs, grad_log_det, flipped, scale_bound)
    check_tensor("grad", grad, x.shape)
    check_like("grad", grad, x)


_backward_op = define(
    "causal_affine_backward",
    "(Tensor grad, Tensor grad_log_det, Tensor x, Tensor pairs, bool flipped, float? scale_bound) -> (Tensor, Tensor)",
    rank=3,
    reference=reference.causal_affine_backward,
    fake=lambda grad, grad_log_det, x, pairs, *_: (x.new_empty(x.shape), pairs.new_empty(pairs.shape)),
    backward=refuse_second_gradient("causal_affine"),
    rows=Rows({0: 0, 1: 0, 2: 0, 3: 0}, (0, 0)),
    check=_check_backward,
    cpu=extension_kernel("causal_affine_backward", 3),
    cuda=triton_kernel("affine.triton_launch", "causal_affine_backward", lambda grad, *_: any_size(grad)),
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    x, pairs, _, *ctx.settings = inputs
    ctx.save_for_backward(x, pairs)


def _backward(ctx: Any, grad: torch.Tensor, grad_log_det: torch.Tensor) -> tuple[Any, ...]:
    grad_x, grad_pairs = _backward_op(grad, grad_log_det, *ctx.saved_tensors, *ctx.settings)
    return grad_x, grad_pairs, grad_log_det, None, None


_op = define(
    "causal_affine",
    "(Tensor x, Tensor pairs, Tensor log_det, bool flipped, float? scale_bound) -> (Tensor, Tensor)",
    rank=3,
    reference=reference.causal_affine,
    fake=lambda x, pairs, log_det, *_: (x.new_empty(x.shape), log_det.new_empty(log_det.shape)),
    backward=_backward,
    check=_check,
    setup_context=_setup_context,
    rows=Rows({0: 0, 1: 0, 2: 0}, (0, 0)),
    cpu=extension_kernel("causal_affine", 3),
    cuda=triton_kernel("affine.triton_launch", "causal_affine", lambda x, *_: any_size(x)),
)


def causal_affine(
    x: torch.Tensor,
    pairs: torch.Tensor,
    log_det: torch.Tensor,
    *,
    flipped: bool = False,
    scale_bound: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move every token by the pair that the tokens before it gave, and add the map's log-determinant to a running one.

    Args:
        x: (rows, tokens, features).
        pairs: (rows, tokens or tokens - 1, 2, features), log_scale and shift in the order in which tokens are seen;
            with one less than there are tokens, the first token seen stays as it is.
        log_det: (rows), in nats: what earlier maps have added up.
        flipped: whether tokens are seen from the last to the first.
        scale_bound: bound of |log_scale|, smooth (tanh); None for none.

    Returns:
        z (rows, tokens, features) and the log-determinant so far (rows).

    Raises:
        ValueError: shapes that do not fit, or a bound that is not positive; the message names the argument.
        TypeError: dtypes or devices that differ from those of x.
    """
    z, total = _op.for_one_seed(x, pairs, log_det, flipped, scale_bound)
    return z, total
