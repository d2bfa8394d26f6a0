"""Which calls of the coupling ops run on Triton kernels, and the reasons why others run on the reference."""

import functools
from importlib.util import find_spec

import torch

from nfkern.kernels.coupling.parameters import CouplingParameters

MAX_FEATURES, MAX_WIDTH = 64, 1024


@functools.cache
def device_reasons(index: int = 0) -> tuple[str, ...]:
    """Why no call can run on Triton kernels on CUDA (or ROCm) device `index`; empty if some can."""
    if find_spec("triton") is None:
        return ("the package triton is missing: it comes with CUDA builds of torch",)
    if not torch.cuda.is_available():
        return ("torch sees no CUDA or ROCm device",)
    capability = torch.cuda.get_device_capability(index)
    if torch.version.hip is None and capability < (8, 0):
        return (f"compute capability {capability[0]}.{capability[1]}: the kernels need 8.0",)
    return ()


def call_reasons(
    x: torch.Tensor, mixing: torch.Tensor, parameters: CouplingParameters, compute_dtype: torch.dtype | None
) -> list[str]:
    """Why this call cannot run on Triton kernels; empty if it can.

    Args:
        x: (rows, features), or with seeds in front.
        mixing: (blocks, features, features), or with seeds in front.
        parameters: the stacked conditioners.
        compute_dtype: of the hidden products.
    """
    reasons = []
    if x.dtype != torch.float32:
        reasons.append(f"dtype {x.dtype}: the kernels take float32")
    if compute_dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        reasons.append(f"compute_dtype {compute_dtype}: the kernels take float32, bfloat16 and float16")
    if mixing.shape[-1] > MAX_FEATURES:
        reasons.append(f"{mixing.shape[-1]} features: the kernels hold up to {MAX_FEATURES}")
    widths = parameters.hidden_weight.shape[-2:]
    if max(widths) > MAX_WIDTH:
        reasons.append(f"hidden widths {tuple(widths)}: the kernels hold up to {MAX_WIDTH}")
    if not x.numel():
        reasons.append("no rows")
    return reasons
