"""Causal affine coupling's launches on a GPU. Each function equals its namesake in `reference.py`."""

from typing import Any

import torch

from nfkern.kernels.affine import triton_kernels
from nfkern.kernels.dispatch.triton_backend import launch, padded


def causal_affine(
    x: torch.Tensor, pairs: torch.Tensor, log_det: torch.Tensor, flipped: bool, scale_bound: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens moved and the running log-determinant, in one launch; seeds may lead."""
    z, total = (torch.empty_like(each, memory_format=torch.contiguous_format) for each in (x, log_det))
    tensors = (tensor.contiguous() for tensor in (x, pairs, log_det))
    grid, constants = _rows(x, pairs, flipped, scale_bound)
    launch(
        triton_kernels.causal_affine_kernel,
        grid,
        *tensors,
        z,
        total,
        1.0 if scale_bound is None else scale_bound,
        **constants,
    )
    return z, total


def causal_affine_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    x: torch.Tensor,
    pairs: torch.Tensor,
    flipped: bool,
    scale_bound: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x and of the pairs, in one launch; seeds may lead."""
    results = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (x, pairs)]
    tensors = (tensor.contiguous() for tensor in (grad, grad_log_det, x, pairs))
    grid, constants = _rows(x, pairs, flipped, scale_bound)
    kernel = triton_kernels.causal_affine_backward_kernel
    launch(kernel, grid, *tensors, *results, 1.0 if scale_bound is None else scale_bound, **constants)
    return results[0], results[1]


def _rows(
    x: torch.Tensor, pairs: torch.Tensor, flipped: bool, scale_bound: float | None
) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The grid over rows, and the kernels' constants."""
    tokens, features = x.shape[-2:]
    return (x[..., 0, 0].numel(),), {
        "TOKENS": tokens,
        "FEATURES": features,
        "UNMOVED": tokens - pairs.shape[-3],
        "FLIPPED": flipped,
        "BOUNDED": scale_bound is not None,
        "BLOCK": min(1024, padded(tokens * features)),
    }
