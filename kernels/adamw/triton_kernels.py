"""AdamW from a gradient's factors on a GPU: device code. One program owns a tile of one net's weights."""

import triton
import triton.language as tl

# Argument lists stay together.
# fmt: off


@triton.jit(do_not_specialize=["count"])
def adamw_kernel(
    weight, first_moment, second_moment, norm_weight, norm_bias, grad2, normalized1, norm_parts, step, learning_rate,
    rest1, beta2, rest2, log_beta1, log_beta2, eps, weight_decay, count, WIDTH1: tl.constexpr, WIDTH2: tl.constexpr,
    TILE1: tl.constexpr, TILE2: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):
    """Sum the product over `count` rows, step the tile, and leave its part of norm_weight's gradient.

    Grid: (tiles of h2, tiles of h1, nets); `norm_parts` (nets, tiles of h2, h1). Every number has one writer, so two
    runs are bit-equal. `rest` is 1 - beta and `log_beta` beta's logarithm, taken in float64: in float32, 1 - 0.999
    has lost three digits.
    """
    net = tl.program_id(2).to(tl.int64)
    units2 = tl.program_id(0) * TILE2 + tl.arange(0, TILE2)
    units1 = tl.program_id(1) * TILE1 + tl.arange(0, TILE1)
    mask1, mask2 = units1 < WIDTH1, units2 < WIDTH2
    grad2 += net * count * WIDTH2
    normalized1 += net * count * WIDTH1
    outer = tl.zeros((TILE2, TILE1), tl.float32)
    sums = tl.zeros((TILE2,), tl.float32)
    for start in range(0, count, CHUNK):
        rows = (start + tl.arange(0, CHUNK)).to(tl.int64)
        row_mask = rows < count
        left = tl.load(
            grad2 + rows[None, :] * WIDTH2 + units2[:, None], mask=mask2[:, None] & row_mask[None, :], other=0.0
        )
        right = tl.load(
            normalized1 + rows[:, None] * WIDTH1 + units1[None, :], mask=row_mask[:, None] & mask1[None, :], other=0.0
        )
        outer = tl.dot(left, right, acc=outer, input_precision=PRECISION)
        sums += tl.sum(left.to(tl.float32), 1)
    at = net * WIDTH2 * WIDTH1 + units2[:, None] * WIDTH1 + units1[None, :]
    mask = mask2[:, None] & mask1[None, :]
    w = tl.load(weight + at, mask=mask, other=0.0)
    parts = norm_parts + (net * tl.num_programs(0) + tl.program_id(0)) * WIDTH1
    tl.store(parts + units1, tl.sum(outer * w, 0), mask=mask1)
    scale = tl.load(norm_weight + net * WIDTH1 + units1, mask=mask1, other=0.0)
    shift = tl.load(norm_bias + net * WIDTH1 + units1, mask=mask1, other=0.0)
    grad = outer * scale[None, :] + sums[:, None] * shift[None, :]
    m = tl.load(first_moment + at, mask=mask, other=0.0)
    v = tl.load(second_moment + at, mask=mask, other=0.0)
    m += rest1 * (grad - m)
    v = beta2 * v + rest2 * grad * grad
    t, rate = tl.load(step), tl.load(learning_rate)
    correction1 = (1.0 - tl.exp((t * log_beta1).to(tl.float64))).to(tl.float32)
    correction2 = (1.0 - tl.exp((t * log_beta2).to(tl.float64))).to(tl.float32)
    w = w * (1.0 - rate * weight_decay) - rate / correction1 * m / (tl.sqrt(v / correction2) + eps)
    tl.store(first_moment + at, m, mask=mask)
    tl.store(second_moment + at, v, mask=mask)
    tl.store(weight + at, w, mask=mask)
