"""`adamw_from_factors`: checks, and the choice between Triton and the reference.

Not an op of the library: an optimiser's step changes its arguments, which the ops never do.
"""

import torch

from nfkern.kernels.adamw import reference
from nfkern.kernels.adamw.reference import AdamWSettings
from nfkern.kernels.registry import reference_forced
from nfkern.kernels.triton_backend import device_reasons, on_its_device


@torch.no_grad()
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
    """One AdamW step of hidden weights, in place; the gradient itself is never in memory on a GPU.

    Args:
        weight: (..., h2, h1), contiguous; changed.
        first_moment: (..., h2, h1), contiguous; changed.
        second_moment: (..., h2, h1), contiguous; changed.
        norm_weight: (..., h1), of the LayerNorm before the weights.
        norm_bias: (..., h1), likewise.
        grad2: (..., rows, h2), see `HiddenFactors`.
        normalized1: (..., rows, h1), see `HiddenFactors`.
        settings: of this step.

    Returns:
        The gradient of norm_weight, (..., h1).

    Raises:
        ValueError: shapes that do not fit.
    """
    *lead, width2, width1 = weight.shape
    rows = grad2.shape[-2]
    expected = {
        "first_moment": (first_moment, (*lead, width2, width1)),
        "second_moment": (second_moment, (*lead, width2, width1)),
        "norm_weight": (norm_weight, (*lead, width1)),
        "norm_bias": (norm_bias, (*lead, width1)),
        "grad2": (grad2, (*lead, rows, width2)),
        "normalized1": (normalized1, (*lead, rows, width1)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")
    arguments = (weight, first_moment, second_moment, norm_weight, norm_bias, grad2, normalized1, settings)
    able = weight.device.type == "cuda" and not device_reasons(weight.device) and weight.dtype == torch.float32
    if able and rows and not reference_forced():
        from nfkern.kernels.adamw import triton_launch

        stepped: torch.Tensor = on_its_device(triton_launch.adamw_from_factors)(*arguments)
        return stepped
    return reference.adamw_from_factors(*arguments)
