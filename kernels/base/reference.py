"""The base density: a standard normal, without parameters or buffers."""

import math

import torch


def standard_normal_log_prob(z: torch.Tensor) -> torch.Tensor:
    """`-|z|^2 / 2 - D log(2 pi) / 2` per row: (rows, D) -> (rows)."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))


def standard_normal_log_prob_backward(grad: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Gradient with respect to z: (rows), (rows, D) -> (rows, D)."""
    return (-grad.unsqueeze(-1) * z).contiguous()
