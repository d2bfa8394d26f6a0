# mypy: ignore-errors
"""A hidden layer's activation on a GPU: device code."""

import triton
import triton.language as tl

# Argument lists stay together.
# fmt: off


@triton.jit
def _gate(x, GELU: tl.constexpr):
    """Return how far the activation lets x through: it is x times this."""
    return tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x) if GELU else x)


@triton.jit
def _activate(x, GELU: tl.constexpr):
    """Return the activation of x."""
    return x * _gate(x, GELU)


@triton.jit
def _slope(x, GELU: tl.constexpr):
    """Return the activation's derivative at x."""
    open = _gate(x, GELU)
    along = x * (1 - open)
    if GELU:
        along *= 1.5957691216057308 * (1 + 3 * 0.044715 * x * x)
    return open + open * along


@triton.jit
def _statistics(x, inside, eps, WIDTH: tl.constexpr):
    """Return a tile of rows normalised, zero outside them, and 1 / their standard deviations."""
    centred = tl.where(inside, x - (tl.sum(tl.where(inside, x, 0.0), 1) / WIDTH)[:, None], 0.0)
    rstd = 1 / tl.sqrt(tl.sum(centred * centred, 1) / WIDTH + eps)
    return centred * rstd[:, None], rstd


@triton.jit
def _parameter(pointer, member, columns, WIDTH: tl.constexpr):
    """Return a member's parameter as a row."""
    return tl.load(pointer + member * WIDTH + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["rows"])
def hidden_activation_kernel(
    x, bias, norm_weight, norm_bias, result, rows, eps,
    GELU: tl.constexpr, NORM: tl.constexpr, NORM_FIRST: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
):
    """A tile of one member's rows."""
    member, columns = tl.program_id(1).to(tl.int64), tl.arange(0, PADDED)
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (row < rows)[:, None] & (columns < WIDTH)[None, :]
    at = (member * rows + row)[:, None] * WIDTH + columns[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + _parameter(bias, member, columns, WIDTH)
    if not (NORM and NORM_FIRST):
        value = _activate(value, GELU)
    if NORM:
        unit, _ = _statistics(value, inside, eps, WIDTH)
        value = unit * _parameter(norm_weight, member, columns, WIDTH)
        value += _parameter(norm_bias, member, columns, WIDTH)
        if NORM_FIRST:
            value = _activate(value, GELU)
    tl.store(result + at, value.to(result.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "steps"])
def hidden_activation_backward_kernel(
    grad, x, bias, norm_weight, norm_bias, grad_x, sums, rows, steps, eps,
    GELU: tl.constexpr, NORM: tl.constexpr, NORM_FIRST: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
):
    """`steps` tiles of one member's rows, and the sums over them: of bias, norm_weight and norm_bias."""
    member, columns = tl.program_id(1).to(tl.int64), tl.arange(0, PADDED)
    shift = _parameter(bias, member, columns, WIDTH)
    bias_sum = tl.zeros((PADDED,), tl.float32)
    if NORM:
        weight = _parameter(norm_weight, member, columns, WIDTH)
        weight_sum, norm_sum = tl.zeros((PADDED,), tl.float32), tl.zeros((PADDED,), tl.float32)
    for step in range(0, steps):
        row = (tl.program_id(0).to(tl.int64) * steps + step) * TILE + tl.arange(0, TILE)
        inside = (row < rows)[:, None] & (columns < WIDTH)[None, :]
        at = (member * rows + row)[:, None] * WIDTH + columns[None, :]
        entering = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + shift
        part = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            unit, rstd = _statistics(entering if NORM_FIRST else _activate(entering, GELU), inside, eps, WIDTH)
            if NORM_FIRST:
                part *= _slope(unit * weight + _parameter(norm_bias, member, columns, WIDTH), GELU)
            weight_sum += tl.sum(part * unit, 0)
            norm_sum += tl.sum(part, 0)
            part *= weight
            along = (tl.sum(part * unit, 1) / WIDTH)[:, None]
            part = (part - (tl.sum(part, 1) / WIDTH)[:, None] - unit * along) * rstd[:, None]
        if not (NORM and NORM_FIRST):
            part *= _slope(entering, GELU)
        part = tl.where(inside, part, 0.0)
        bias_sum += tl.sum(part, 0)
        tl.store(grad_x + at, part.to(grad_x.dtype.element_ty), mask=inside)
    to = sums + (member * tl.num_programs(0) + tl.program_id(0)) * 3 * WIDTH + columns
    tl.store(to, bias_sum, mask=columns < WIDTH)
    if NORM:
        tl.store(to + WIDTH, weight_sum, mask=columns < WIDTH)
        tl.store(to + 2 * WIDTH, norm_sum, mask=columns < WIDTH)
