"""The base density's launches on a GPU. Each function equals its namesake in `reference.py`."""

import math
from typing import Any

import torch

from nfkern.kernels.base import triton_kernels
from nfkern.kernels.dispatch.triton_backend import launch, padded, programs


def standard_normal_log_prob(z: torch.Tensor) -> torch.Tensor:
    """Log-density of each row, in one launch."""
    log_prob = torch.empty(z.shape[:-1], dtype=z.dtype, device=z.device)
    grid, constants = _rows(z)
    constant = -0.5 * z.shape[-1] * math.log(2 * math.pi)
    launch(triton_kernels.log_prob_kernel, grid, z.contiguous(), log_prob, log_prob.numel(), constant, **constants)
    return log_prob


def standard_normal_log_prob_backward(grad: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Gradient with respect to z, in one launch."""
    result = torch.empty(z.shape, dtype=z.dtype, device=z.device)
    grid, constants = _rows(z)
    kernel = triton_kernels.log_prob_backward_kernel
    launch(kernel, grid, grad.contiguous(), z.contiguous(), result, grad.numel(), **constants)
    return result


def _rows(z: torch.Tensor) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The grid over rows, and the kernels' constants: about 2048 elements a program."""
    size = z.shape[-1]
    tile = max(1, 2048 // padded(size))
    return (programs(z[..., 0].numel(), tile),), {"SIZE": size, "PADDED": padded(size), "TILE": tile}
