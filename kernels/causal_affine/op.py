"""`causal_affine`: checks, registration and gradient."""

import math
from typing import Any

import torch

from nfkern.kernels.causal_affine import reference
from nfkern.kernels.op_transforms import Rows
from nfkern.kernels.registry import define, refuse_second_gradient

_backward_op = define(
    "causal_affine_backward",
    "(Tensor grad, Tensor grad_log_det, Tensor x, Tensor pairs, bool flipped, float? scale_bound) -> (Tensor, Tensor)",
    rank=3,
    reference=reference.causal_affine_backward,
    fake=lambda grad, grad_log_det, x, pairs, *_: (x.new_empty(x.shape), pairs.new_empty(pairs.shape)),
    backward=refuse_second_gradient("causal_affine"),
    rows=Rows({0: 0, 1: 0, 2: 0, 3: 0}, (0, 0)),
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
    setup_context=_setup_context,
    rows=Rows({0: 0, 1: 0, 2: 0}, (0, 0)),
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
        ValueError: shapes that do not fit, or a bound that is none; the message names the argument.
        TypeError: dtypes or devices that differ from those of x.
    """
    if x.ndim != 3:
        raise ValueError(f"x: expected shape (rows, tokens, features), got {tuple(x.shape)}")
    rows, tokens, features = x.shape
    if (
        pairs.ndim != 4
        or pairs.shape[1] not in (tokens, tokens - 1)
        or pairs.shape
        != (
            rows,
            pairs.shape[1],
            2,
            features,
        )
    ):
        raise ValueError(
            f"pairs: expected shape ({rows}, {tokens} or {tokens - 1}, 2, {features}), got {tuple(pairs.shape)}"
        )
    if log_det.shape != (rows,):
        raise ValueError(f"log_det: expected shape ({rows},), got {tuple(log_det.shape)}")
    for name, tensor in (("pairs", pairs), ("log_det", log_det)):
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise TypeError(f"{name}: expected {x.dtype} on {x.device} as x, got {tensor.dtype} on {tensor.device}")
    check_scale_bound(scale_bound)
    z, total = _op(x, pairs, log_det, flipped, scale_bound)
    return z, total


def check_scale_bound(scale_bound: float | None) -> None:
    """Refuse a bound that is none.

    Raises:
        ValueError: it is neither None nor a finite number above 0.
    """
    if scale_bound is not None and not (math.isfinite(scale_bound) and scale_bound > 0):
        raise ValueError(f"scale_bound: expected None or a number > 0, got {scale_bound!r}")
