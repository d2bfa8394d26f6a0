# mypy: ignore-errors
"""The base density on a GPU: device code."""

import triton
import triton.language as tl

# Argument lists stay together.
# fmt: off


@triton.jit(do_not_specialize=["count"])
def log_prob_kernel(z, log_prob, count, constant, SIZE: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr):
    """`constant - |z|^2 / 2` for a tile of rows; `constant` is the logarithm of the normalisation."""
    rows = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    columns = tl.arange(0, PADDED)
    mask = (rows < count)[:, None] & (columns < SIZE)[None, :]
    values = tl.load(z + rows[:, None] * SIZE + columns[None, :], mask=mask, other=0.0)
    tl.store(log_prob + rows, constant - 0.5 * tl.sum(values * values, 1), mask=rows < count)


@triton.jit(do_not_specialize=["count"])
def log_prob_backward_kernel(grad, z, result, count, SIZE: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr):
    """`-grad z` for a tile of rows."""
    rows = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    columns = tl.arange(0, PADDED)
    mask = (rows < count)[:, None] & (columns < SIZE)[None, :]
    at = rows[:, None] * SIZE + columns[None, :]
    scale = tl.load(grad + rows, mask=rows < count, other=0.0)
    tl.store(result + at, -scale[:, None] * tl.load(z + at, mask=mask, other=0.0), mask=mask)
