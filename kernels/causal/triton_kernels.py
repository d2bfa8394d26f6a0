# mypy: ignore-errors
r"""The causal flow on a GPU: device code of its transformers and of the step from one token to the next.

- One kernel does every product of a layer: rows of x, normalised on the way in where LayerNorm stands before the
  product, times a weight as PyTorch lays it out. Programs share the outputs, so that many read a weight at once even
  when there is one row; each normalises its rows again, which is cheap beside the product.
- Keys and values need no copy into a cache: the product writes queries, keys and values of a position to their place in
  (rows, positions, 3 WIDTH), and attention reads them there.
- What lies between the last layer of one position and the first of the next is a matter of one row: it is one kernel.

Layers' products are in the dtype of their weights; all else is float32. Addresses: as in the coupling flow, a program
moves its pointers to its first row in 64 bits, and counts rows from there.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nfkern.kernels.affine import triton_transform as transform
from nfkern.kernels.coupling.triton_kernels import groups_of

# Argument lists stay together.
# fmt: off

SIZES = ["count", "groups", "spread", "position", "length", "tokens", "place"]
"""Arguments that change from call to call, or from position to position: compiled once for all their values."""


@triton.jit
def gelu(x):
    """GELU in its exact form, as PyTorch's."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def row_statistics(
    x, rows, row_mask, norm_eps, WIDTH: tl.constexpr, TILE: tl.constexpr, SPAN: tl.constexpr
):
    """Mean and 1 / sqrt(variance + eps) of rows in memory, SPAN columns at a time."""
    mean, variance = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    for start in range(0, WIDTH, SPAN):
        units = start + tl.arange(0, SPAN)
        mask = row_mask[:, None] & (units < WIDTH)[None, :]
        mean += tl.sum(tl.load(x + rows[:, None] * WIDTH + units[None, :], mask=mask, other=0.0), 1)
    mean /= WIDTH
    for start in range(0, WIDTH, SPAN):
        units = start + tl.arange(0, SPAN)
        mask = row_mask[:, None] & (units < WIDTH)[None, :]
        values = tl.load(x + rows[:, None] * WIDTH + units[None, :], mask=mask, other=0.0)
        centred = tl.where(mask, values - mean[:, None], 0.0)
        variance += tl.sum(centred * centred, 1)
    return mean, 1.0 / tl.sqrt(variance / WIDTH + norm_eps)


@triton.jit(do_not_specialize=SIZES)
def product_kernel(
    x, norm_weight, norm_bias, weight, bias, residual, result, count, spread, norm_eps, INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr, RESIDUAL: tl.constexpr, TILE: tl.constexpr,
    SPAN: tl.constexpr, CHUNK1: tl.constexpr, CHUNK2: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):
    """`x @ weight^T + bias` for a tile of rows (first grid axis) and CHUNK2 outputs (second).

    x: (count, INPUTS), with NORM through LayerNorm first; weight (OUTPUTS, INPUTS). With GELU, of the sum; with
    RESIDUAL, plus `residual` (count, OUTPUTS), which may be the result itself. Row r of the result is its row
    `r * spread`: positions of a row lie between one row and the next.
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    first = tl.program_id(0).to(tl.int64) * TILE
    rows, outputs = tl.arange(0, TILE), tl.program_id(1) * CHUNK2 + tl.arange(0, CHUNK2)
    row_mask, inside = rows < count - first, outputs < OUTPUTS
    x += first * INPUTS
    if NORM:
        mean, deviation = row_statistics(x, rows, row_mask, norm_eps, INPUTS, TILE, SPAN)
    product = tl.zeros((TILE, CHUNK2), tl.float32)
    for start in range(0, INPUTS, CHUNK1):
        units = start + tl.arange(0, CHUNK1)
        known = units < INPUTS
        values = tl.load(
            x + rows[:, None] * INPUTS + units[None, :], mask=row_mask[:, None] & known[None, :], other=0.0
        )
        if NORM:
            scale = tl.load(norm_weight + units, mask=known, other=0.0)
            shift = tl.load(norm_bias + units, mask=known, other=0.0)
            values = (values - mean[:, None]) * deviation[:, None] * scale[None, :] + shift[None, :]
        columns = tl.load(
            weight + outputs[None, :] * INPUTS + units[:, None], mask=inside[None, :] & known[:, None], other=0.0
        )
        product = tl.dot(values.to(columns.dtype), columns, acc=product, input_precision=PRECISION)
    product += tl.load(bias + outputs, mask=inside, other=0.0)[None, :]
    mask = row_mask[:, None] & inside[None, :]
    if GELU:
        product = gelu(product)
    if RESIDUAL:
        at = residual + first * OUTPUTS + rows[:, None] * OUTPUTS + outputs[None, :]
        product += tl.load(at, mask=mask, other=0.0)
    stride = spread.to(tl.int64) * OUTPUTS
    at = result + first * stride + rows[:, None] * stride + outputs[None, :]
    tl.store(at, product.to(result.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def attention_kernel(
    qkv, attended, position, length, WIDTH: tl.constexpr, HEADS: tl.constexpr, PADDED: tl.constexpr,
    KEYS: tl.constexpr, PDL: tl.constexpr,
):
    """Attention of the query at `position` to the positions up to it: a row (first grid axis), a head (second).

    qkv: (rows, length, 3 WIDTH), filled up to `position`; attended (rows, WIDTH). KEYS positions at a time, with the
    sums of before scaled down to the largest score so far.
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    size: tl.constexpr = WIDTH // HEADS
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    units = tl.arange(0, PADDED)
    inside = units < size
    qkv += row * length * (3 * WIDTH) + head * size
    query = tl.load(qkv + position.to(tl.int64) * (3 * WIDTH) + units, mask=inside, other=0.0) * size ** -0.5
    largest, total = float("-inf"), 0.0
    result = tl.zeros((PADDED,), tl.float32)
    for start in range(0, position + 1, KEYS):
        places = start + tl.arange(0, KEYS)
        seen = places <= position
        at = qkv + places[:, None].to(tl.int64) * (3 * WIDTH) + units[None, :]
        mask = seen[:, None] & inside[None, :]
        keys = tl.load(at + WIDTH, mask=mask, other=0.0)
        values = tl.load(at + 2 * WIDTH, mask=mask, other=0.0)
        scores = tl.where(seen, tl.sum(keys * query[None, :], 1), float("-inf"))
        before = largest
        largest = tl.maximum(before, tl.max(scores, 0))
        weights, shrunk = tl.exp(scores - largest), tl.exp(before - largest)
        total = total * shrunk + tl.sum(weights, 0)
        result = result * shrunk + tl.sum(weights[:, None] * values, 0)
    at = attended + row * WIDTH + head * size + units
    tl.store(at, (result / total).to(attended.dtype.element_ty), mask=inside)


@triton.jit
def pairs(
    hidden, output_weight, output_bias, rows, row_mask, WIDTH: tl.constexpr, FEATURES: tl.constexpr,
    PADDED: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, SINGLE: tl.constexpr,
):
    """log_scale and shift (TILE, PADDED) of the token after the position of `hidden`; 0 beyond FEATURES."""
    features = tl.arange(0, PADDED)
    inside = features < FEATURES
    log_scale = tl.zeros((TILE, PADDED), tl.float32) + tl.load(output_bias + features, mask=inside, other=0.0)[None, :]
    shift_bias = tl.load(output_bias + FEATURES + features, mask=inside, other=0.0)
    shift = tl.zeros((TILE, PADDED), tl.float32) + shift_bias[None, :]
    for start in range(0, WIDTH, CHUNK):
        units = start + tl.arange(0, CHUNK)
        known = units < WIDTH
        values = tl.load(
            hidden + rows[:, None] * WIDTH + units[None, :], mask=row_mask[:, None] & known[None, :], other=0.0
        )
        at, mask = output_weight + features[None, :] * WIDTH + units[:, None], inside[None, :] & known[:, None]
        log_scale = tl.dot(values, tl.load(at, mask=mask, other=0.0), acc=log_scale, input_precision=SINGLE)
        weight = tl.load(at + FEATURES * WIDTH, mask=mask, other=0.0)
        shift = tl.dot(values, weight, acc=shift, input_precision=SINGLE)
    return log_scale, shift


@triton.jit(do_not_specialize=SIZES)
def token_kernel(
    hidden, noise, result, log_det, term, unconditional, places, input_weight, output_weight, output_bias, count,
    groups, tokens, place, scale_bound, guidance, BLOCKS: tl.constexpr, WIDTH: tl.constexpr, FEATURES: tl.constexpr,
    PADDED: tl.constexpr, PREFIX: tl.constexpr, MOVE: tl.constexpr, EMBED: tl.constexpr, BOUNDED: tl.constexpr,
    GUIDED: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, SINGLE: tl.constexpr, PDL: tl.constexpr,
):
    """The step from one position to the next, for a tile of rows.

    With MOVE, the last layer's result `hidden` (count, WIDTH) moves the noise at `place` of `tokens`, and log_det
    (count) grows by it; without, that token stays, or with a PREFIX there is none yet. With EMBED, the first layer's
    input at the next position takes the place of `hidden`. With GUIDED, `hidden` has count rows more, which see
    `unconditional` (WIDTH) in the place of their group's `term` (groups, BLOCKS, WIDTH).
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    first = tl.program_id(0).to(tl.int64) * TILE
    rows, features = tl.arange(0, TILE), tl.arange(0, PADDED)
    row_mask = rows < count - first
    token_mask = row_mask[:, None] & (features < FEATURES)[None, :]
    hidden += first * WIDTH
    without = hidden + count.to(tl.int64) * WIDTH
    token_at = ((first + rows)[:, None] * tokens + place) * FEATURES + features[None, :]
    token = tl.load(noise + token_at, mask=token_mask, other=0.0)
    if MOVE:
        log_scale, shift = pairs(
            hidden, output_weight, output_bias, rows, row_mask, WIDTH, FEATURES, PADDED, TILE, CHUNK, SINGLE
        )
        if GUIDED:
            log_scale_without, shift_without = pairs(
                without, output_weight, output_bias, rows, row_mask, WIDTH, FEATURES, PADDED, TILE, CHUNK, SINGLE
            )
            log_scale += guidance * (log_scale - log_scale_without)
            shift += guidance * (shift - shift_without)
        map = transform.affine_map(log_scale, shift, scale_bound, BOUNDED)
        token = transform.inverse(map, token)
        before = tl.load(log_det + first + rows, mask=row_mask, other=0.0)
        tl.store(log_det + first + rows, before - tl.sum(transform.log_det(map), 1), mask=row_mask)
        # Every thread has read `hidden` before any writes there.
        tl.debug_barrier()
    if MOVE or not PREFIX:
        tl.store(result + token_at, token, mask=token_mask)
    if EMBED:
        group, first_group = groups_of(first, rows, count, groups)
        term += first_group * (BLOCKS * WIDTH)
        for start in range(0, WIDTH, CHUNK):
            units = start + tl.arange(0, CHUNK)
            known = units < WIDTH
            mask = row_mask[:, None] & known[None, :]
            at = rows[:, None] * WIDTH + units[None, :]
            embedded = tl.zeros((TILE, CHUNK), tl.float32)
            if MOVE or not PREFIX:
                weight = tl.load(
                    input_weight + units[None, :] * FEATURES + features[:, None],
                    mask=known[None, :] & (features < FEATURES)[:, None],
                    other=0.0,
                )
                embedded += tl.load(places + place * WIDTH + units, mask=known, other=0.0)[None, :]
                embedded = tl.dot(token, weight, acc=embedded, input_precision=SINGLE)
            if GUIDED:
                added = tl.load(unconditional + units, mask=known, other=0.0)
                unseen = embedded if PREFIX and MOVE else embedded + added[None, :]
                tl.store(without + at, unseen, mask=mask)
            if not (PREFIX and MOVE):
                embedded += tl.load(term + group[:, None] * (BLOCKS * WIDTH) + units[None, :], mask=mask, other=0.0)
            tl.store(hidden + at, embedded, mask=mask)
