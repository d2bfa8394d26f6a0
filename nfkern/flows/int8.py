"""Weights in int8, with a scale in float32 for each output."""

import torch

LARGEST = 127


def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the nearest int8 numbers to a weight (..., outputs, inputs), and their scales (..., outputs) in float32.

    The largest entry of each output is 127 or -127. Of a weight that is not finite a scale is not either.
    """
    tiny = torch.finfo(torch.float32).tiny
    scale = (weight.detach().abs().amax(-1) / LARGEST).float().clamp_min(tiny)
    steps = (weight.detach() / scale.unsqueeze(-1)).round().clamp(-LARGEST, LARGEST)
    return steps.nan_to_num(0).to(torch.int8).contiguous(), scale


def dequantized(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the float32 weight (..., outputs, inputs) of int8 numbers and their scales (..., outputs)."""
    return weight.to(scale.dtype) * scale.unsqueeze(-1)
