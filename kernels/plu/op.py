"""`compose`: checks, registration and gradient of the PLU mixing matrices."""

from typing import Any

import torch

from nfkern.kernels.plu import reference
from nfkern.kernels.registry import define, refuse_second_gradient

_backward_op = define(
    "plu_compose_backward",
    "(Tensor grad_matrix, Tensor grad_log_det, Tensor lu, Tensor permutation, bool inverse) -> Tensor",
    rank=3,
    reference=reference.compose_backward,
    fake=lambda grad_matrix, grad_log_det, lu, permutation, inverse: torch.empty_like(
        lu, memory_format=torch.contiguous_format
    ),
    backward=refuse_second_gradient("plu_compose"),
)


def _fake(lu: torch.Tensor, permutation: torch.Tensor, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(lu, memory_format=torch.contiguous_format), lu.new_empty(())


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    lu, permutation, ctx.inverse = inputs
    ctx.save_for_backward(lu, permutation)


def _backward(ctx: Any, grad_matrix: torch.Tensor, grad_log_det: torch.Tensor) -> tuple[Any, ...]:
    lu, permutation = ctx.saved_tensors
    return _backward_op(grad_matrix, grad_log_det, lu, permutation, ctx.inverse), None, None


_op = define(
    "plu_compose",
    "(Tensor lu, Tensor permutation, bool inverse) -> (Tensor, Tensor)",
    rank=3,
    reference=reference.compose,
    fake=_fake,
    backward=_backward,
    setup_context=_setup_context,
)


def compose(lu: torch.Tensor, permutation: torch.Tensor, inverse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Mixing matrices of all blocks: :math:`W_k = P_k L_k (U_k + \mathrm{diag}\, s_k)`, or their inverses.

    Args:
        lu: (blocks, features, features), packed factors: L strictly below the diagonal, U above it, s on it.
        permutation: (blocks, features), int64; `(P M)[i] = M[permutation[i]]`.
        inverse: return the inverses.

    Returns:
        The matrices, (blocks, features, features), applied as `x @ W`, and the sum of their log|det| in nats, ().

    Raises:
        ValueError: the shapes do not fit.
    """
    if lu.ndim != 3 or lu.shape[1] != lu.shape[2]:
        raise ValueError(f"lu: expected shape (blocks, features, features), got {tuple(lu.shape)}")
    if permutation.shape != lu.shape[:2]:
        raise ValueError(f"permutation: expected shape {tuple(lu.shape[:2])}, got {tuple(permutation.shape)}")
    matrix, log_det = _op(lu, permutation, inverse)
    return matrix, log_det
