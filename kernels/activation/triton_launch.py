"""The launches of a hidden layer's activation on a GPU. Each function equals its namesake in `reference.py`."""

from typing import Any

import torch
import triton

from nfkern.kernels.activation import triton_kernels
from nfkern.kernels.dispatch.triton_backend import launch, padded

MOST_PARTS = 128
"""Programs along a member's rows in the derivative: each leaves a row of sums."""


def hidden_activation(
    x: torch.Tensor,
    bias: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    norm_eps: float,
    activation: str,
    norm_first: bool,
) -> torch.Tensor:
    """All members' rows, in one launch."""
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows, members, constants = _rows(x, norm_weight, activation, norm_first)
    tensors = (x.contiguous(), *_parameters(bias, norm_weight, norm_bias), result)
    grid = (triton.cdiv(rows, constants["TILE"]), members)
    launch(triton_kernels.hidden_activation_kernel, grid, *tensors, rows, norm_eps, **constants)
    return result


def hidden_activation_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    norm_eps: float,
    activation: str,
    norm_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of all members' rows and parameters, in one launch and a sum of what its programs leave."""
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows, members, constants = _rows(x, norm_weight, activation, norm_first)
    tiles = triton.cdiv(rows, constants["TILE"])
    steps = triton.cdiv(tiles, MOST_PARTS)
    parts = triton.cdiv(tiles, steps)
    sums = torch.empty(members, parts, 3, x.shape[-1], dtype=torch.float32, device=x.device)
    tensors = (grad.contiguous(), x.contiguous(), *_parameters(bias, norm_weight, norm_bias), grad_x, sums)
    kernel = triton_kernels.hidden_activation_backward_kernel
    launch(kernel, (parts, members), *tensors, rows, steps, norm_eps, **constants)
    if norm_weight is None or norm_bias is None:
        nothing = bias.new_empty((*bias.shape[:-1], 0))
        return grad_x, sums[:, :, 0].sum(1).reshape(bias.shape).to(bias.dtype), nothing, nothing.clone()
    total = sums.sum(1)
    of_bias, of_weight, of_shift = (
        total[:, index].reshape(parameter.shape).to(parameter.dtype).contiguous()
        for index, parameter in enumerate((bias, norm_weight, norm_bias))
    )
    return grad_x, of_bias, of_weight, of_shift


def _parameters(*parameters: torch.Tensor | None) -> list[torch.Tensor]:
    """Return pointers; the first one's where there is no LayerNorm, whose are not read."""
    assert parameters[0] is not None
    return [parameters[0].contiguous() if each is None else each.contiguous() for each in parameters]


def _rows(
    x: torch.Tensor, norm_weight: torch.Tensor | None, activation: str, norm_first: bool
) -> tuple[int, int, dict[str, Any]]:
    """Rows of a member, members, and the kernels' constants: about 4096 elements a tile."""
    rows, width = x.shape[-2:]
    return (
        rows,
        x[..., 0, 0].numel(),
        {
            "GELU": activation == "gelu",
            "NORM": norm_weight is not None,
            "NORM_FIRST": norm_first,
            "WIDTH": width,
            "PADDED": padded(width),
            "TILE": max(1, 4096 // padded(width)),
        },
    )
