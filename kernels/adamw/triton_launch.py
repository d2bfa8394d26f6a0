"""AdamW from a gradient's factors on a GPU: what is launched."""

import math

import torch
import triton

from nfkern.kernels.adamw import triton_kernels
from nfkern.kernels.adamw.reference import AdamWSettings
from nfkern.kernels.triton_backend import padded, start

TILE1, TILE2, CHUNK = 64, 64, 32


def adamw_from_factors(
    weight: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    grad2: torch.Tensor,
    normalized1: torch.Tensor,
    settings: AdamWSettings,
) -> torch.Tensor:
    """One step in one launch, and a small sum; see the reference."""
    *lead, width2, width1 = weight.shape
    nets, rows = weight.numel() // (width2 * width1), grad2.shape[-2]
    tile1, tile2 = min(TILE1, padded(width1)), min(TILE2, padded(width2))
    grid = (triton.cdiv(width2, tile2), triton.cdiv(width1, tile1), nets)
    parts = torch.empty((*lead, grid[0], width1), dtype=torch.float32, device=weight.device)
    single = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
    s = settings
    start(
        triton_kernels.adamw_kernel, grid, weight, first_moment, second_moment, norm_weight.contiguous(),
        norm_bias.contiguous(), grad2.contiguous(), normalized1.contiguous(), parts, s.step, s.learning_rate,
        1 - s.beta1, s.beta2, 1 - s.beta2, math.log(s.beta1), math.log(s.beta2), s.eps, s.weight_decay, rows,
        WIDTH1=width1, WIDTH2=width2, TILE1=tile1, TILE2=tile2, CHUNK=CHUNK, PRECISION=single,
    )  # fmt: skip
    return parts.sum(-2)
