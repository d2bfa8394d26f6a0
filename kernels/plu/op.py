"""`compose`: checks, registration and gradient of the PLU mixing matrices."""

from typing import Any

import torch

from nfkern.kernels.dispatch.checks import check_floating, check_like, check_tensor
from nfkern.kernels.dispatch.native_extension import extension_kernel
from nfkern.kernels.dispatch.registry import define, refuse_second_gradient
from nfkern.kernels.dispatch.triton_backend import tensor_reasons, triton_kernel
from nfkern.kernels.plu import reference


def _check(lu: torch.Tensor, permutation: torch.Tensor, inverse: bool) -> None:
    check_tensor("lu", lu, ("blocks", "features", "features"))
    blocks, features, _ = lu.shape
    check_tensor("lu", lu, (blocks, features, features))
    check_floating("lu", lu)
    check_tensor("permutation", permutation, (blocks, features))
    if permutation.dtype != torch.int64 or permutation.device != lu.device:
        raise TypeError(
            f"permutation: expected torch.int64 on {lu.device} as lu, got {permutation.dtype} on {permutation.device}"
        )
    # On a GPU, a look at the indices would have to wait for them.
    if permutation.device.type == "cpu":
        ordered = torch.arange(features).expand(blocks, -1)
        if not torch.equal(permutation.sort(-1).values, ordered):
            raise ValueError(f"permutation: expected indices from 0 to {features - 1}, each once in a block")


def _check_backward(
    grad_matrix: torch.Tensor, grad_log_det: torch.Tensor, lu: torch.Tensor, permutation: torch.Tensor, inverse: bool
) -> None:
    _check(lu, permutation, inverse)
    check_tensor("grad_matrix", grad_matrix, lu.shape)
    check_tensor("grad_log_det", grad_log_det, ())
    check_like("grad_matrix", grad_matrix, lu, "lu")
    check_like("grad_log_det", grad_log_det, lu, "lu")


_backward_op = define(
    "plu_compose_backward",
    "(Tensor grad_matrix, Tensor grad_log_det, Tensor lu, Tensor permutation, bool inverse) -> Tensor",
    rank=3,
    reference=reference.compose_backward,
    fake=lambda grad_matrix, grad_log_det, lu, permutation, inverse: torch.empty_like(
        lu, memory_format=torch.contiguous_format
    ),
    backward=refuse_second_gradient("plu_compose"),
    check=_check_backward,
    cpu=extension_kernel("plu_compose_backward", 3),
    cuda=triton_kernel("plu.triton_launch", "compose_backward", lambda *args: tensor_reasons(args[2])),
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
    check=_check,
    setup_context=_setup_context,
    cpu=extension_kernel("plu_compose", 3),
    cuda=triton_kernel("plu.triton_launch", "compose", lambda lu, *_: tensor_reasons(lu)),
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
        ValueError: the shapes do not fit, or the indices are no permutation.
        TypeError: a dtype or device that does not fit.
    """
    matrix, log_det = _op.for_one_seed(lu, permutation, inverse)
    return matrix, log_det
