# mypy: ignore-errors
"""A kernel that does nothing, to time a launch."""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def empty_kernel(PDL: tl.constexpr):
    """Wait for the launch before and let the next one start, where launches are dependent."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
