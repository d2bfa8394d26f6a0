"""PLU mixing's launches on a GPU. Each function equals its namesake in `reference.py`; seeds may lead."""

import torch

from nfkern.kernels.dispatch.triton_backend import launch, padded
from nfkern.kernels.plu import triton_kernels


def compose(lu: torch.Tensor, permutation: torch.Tensor, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices and their log-determinant in one launch; see the reference."""
    lead, (blocks, size) = lu.shape[:-3], lu.shape[-3:-1]
    matrix = torch.empty_like(lu, memory_format=torch.contiguous_format)
    log_det = torch.empty(lead, dtype=lu.dtype, device=lu.device)
    launch(
        triton_kernels.compose_kernel, (blocks, lead.numel()), lu.contiguous(), permutation.contiguous(), matrix,
        log_det, BLOCKS=blocks, SIZE=size, PADDED=padded(size), DIAGONALS=padded(blocks * size), INVERSE=inverse,
        num_warps=_warps(size),
    )  # fmt: skip
    return matrix, log_det


def compose_backward(
    grad_matrix: torch.Tensor, grad_log_det: torch.Tensor, lu: torch.Tensor, permutation: torch.Tensor, inverse: bool
) -> torch.Tensor:
    """Gradient of the packed factors in one launch; see the reference."""
    lead, (blocks, size) = lu.shape[:-3], lu.shape[-3:-1]
    result = torch.empty_like(lu, memory_format=torch.contiguous_format)
    scratch_shape = (*lead, blocks, 3, size, size) if inverse else (0,)
    scratch = torch.empty(scratch_shape, dtype=torch.float64, device=lu.device)
    tensors = (tensor.contiguous() for tensor in (grad_matrix, grad_log_det, lu, permutation))
    launch(
        triton_kernels.compose_backward_kernel, (blocks, lead.numel()), *tensors, result, scratch,
        BLOCKS=blocks, SIZE=size, PADDED=padded(size), INVERSE=inverse, num_warps=_warps(size),
    )  # fmt: skip
    return result


def _warps(size: int) -> int:
    """Warps of a program: the inverse's derivative of 64 x 64, with two matrices in float64, spilled with four."""
    return 8 if padded(size) > 32 else 4
