# mypy: ignore-errors
r"""The coupling flow on a GPU: device code of the maps between data and noise, all blocks in one launch.

One program owns a tile of rows and takes it through all blocks; weights stream from L2. What differs from the
definition in `reference.py`:

- Weights arrive *folded*: :math:`W\,\mathrm{LN}(u) + b = r(u)\, W'' u + b'` with the rows of :math:`W''` centred, so
  that a layer needs no mean, and its one statistic, r = 1 / standard deviation, is applied after the product.
- Triton cannot slice a register tile along K. Each column chunk of layer 1 is therefore made where it is used, as the
  K-chunk of layer 2's accumulator; it is made again for each chunk of layer 2's columns, which is cheap because a
  block keeps at most 32 features.
- Mixing reads its rows back from memory column by column, as outer products: small products in full precision spill
  registers (seen with Triton 3.7, 2026-11).

Tiles are padded: `KEPT` and `TRANSFORMED` (powers of two, at least 16, what a product needs) columns hold ceil(D/2) and
floor(D/2) features and zeros elsewhere. `weights` is the tuple (input_weight, hidden_weight, hidden_bias,
output_weight, output_bias) of pointers to a seed's stacked parameters, and `net` counts its networks: 2 block + (0 for
log_scale, 1 for shift). The hidden weights' dtype is that of the hidden products; all else is float32.

Addresses: a program moves every pointer to its seed and to its first row once, in 64 bits; `rows` then counts from 0
within the tile, so that offsets of whole tiles are 32-bit and cost half the registers.
"""

import triton
import triton.language as tl

from nfkern.kernels.affine import triton_transform as transform

# Argument lists stay together.
# fmt: off

SIZES = ["count", "groups", "first", "span", "step", "nets"]
"""Arguments that change from call to call: compiled once for all their values, and kept in 64 bits where they grow."""


@triton.jit
def leaky_relu(x):
    """LeakyReLU(0.01)."""
    return tl.where(x > 0, x, 0.01 * x)


@triton.jit
def statistics(total, squares, width, eps):
    """Mean and 1 / sqrt(variance + eps) from the sums of a row's activations and of their squares."""
    mean = total / width
    variance = tl.maximum(squares / width - mean * mean, 0.0)
    return mean, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def seed_weights(
    weights, seed, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, WIDTH1: tl.constexpr, WIDTH2: tl.constexpr
):
    """The pointers, moved on to a seed's parameters."""
    nets = seed * BLOCKS * 2
    split: tl.constexpr = (FEATURES + 1) // 2
    moved: tl.constexpr = FEATURES // 2
    return (
        weights[0] + nets * WIDTH1 * split, weights[1] + nets * WIDTH2 * WIDTH1, weights[2] + nets * WIDTH2,
        weights[3] + nets * moved * WIDTH2, weights[4] + nets * moved,
    )


@triton.jit
def groups_of(start, rows, count, groups):
    """The contexts of a tile's rows, counted from the first row's, and the first row's own."""
    per_group = count // groups
    first_group = start // per_group
    return ((start - first_group * per_group).to(tl.int32) + rows) // per_group, first_group


@triton.jit
def load_halves(source, rows, row_mask, FEATURES: tl.constexpr, KEPT: tl.constexpr, TRANSFORMED: tl.constexpr):
    """The two halves of rows in memory."""
    split: tl.constexpr = (FEATURES + 1) // 2
    left, right = tl.arange(0, KEPT), split + tl.arange(0, TRANSFORMED)
    at = source + rows[:, None] * FEATURES
    kept = tl.load(at + left[None, :], mask=row_mask[:, None] & (left < split)[None, :], other=0.0)
    transformed = tl.load(at + right[None, :], mask=row_mask[:, None] & (right < FEATURES)[None, :], other=0.0)
    return kept, transformed


@triton.jit
def store_halves(
    target, kept, transformed, rows, row_mask, FEATURES: tl.constexpr, KEPT: tl.constexpr, TRANSFORMED: tl.constexpr
):
    """Write both halves of rows; the barrier lets every thread of the program read them back."""
    split: tl.constexpr = (FEATURES + 1) // 2
    left, right = tl.arange(0, KEPT), split + tl.arange(0, TRANSFORMED)
    at = target + rows[:, None] * FEATURES
    tl.store(at + left[None, :], kept, mask=row_mask[:, None] & (left < split)[None, :])
    tl.store(at + right[None, :], transformed, mask=row_mask[:, None] & (right < FEATURES)[None, :])
    tl.debug_barrier()


@triton.jit
def mix(
    source, matrix, rows, row_mask, FEATURES: tl.constexpr, KEPT: tl.constexpr, TRANSFORMED: tl.constexpr,
    TILE: tl.constexpr, TRANSPOSED: tl.constexpr = False,
):
    """The two halves of `source @ matrix`, or of `source @ matrix^T`, for rows in memory.

    The barrier at the end lets the caller overwrite them.
    """
    split: tl.constexpr = (FEATURES + 1) // 2
    left, right = tl.arange(0, KEPT), split + tl.arange(0, TRANSFORMED)
    kept = tl.zeros((TILE, KEPT), tl.float32)
    transformed = tl.zeros((TILE, TRANSFORMED), tl.float32)
    row_stride: tl.constexpr = 1 if TRANSPOSED else FEATURES
    column_stride: tl.constexpr = FEATURES if TRANSPOSED else 1
    for j in range(FEATURES):
        column = tl.load(source + rows * FEATURES + j, mask=row_mask, other=0.0)
        at = matrix + j * row_stride
        kept += column[:, None] * tl.load(at + left * column_stride, mask=left < split, other=0.0)[None, :]
        transformed += column[:, None] * tl.load(at + right * column_stride, mask=right < FEATURES, other=0.0)[None, :]
    tl.debug_barrier()
    return kept, transformed


@triton.jit
def first_layer(
    kept, term, input_weight, net, group, row_mask, start, BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
    SPLIT: tl.constexpr, KEPT: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):
    """Preactivations (rows, CHUNK) of the hidden units from `start` on; 0 beyond WIDTH."""
    units, features = start + tl.arange(0, CHUNK), tl.arange(0, KEPT)
    weight = tl.load(
        input_weight + (net * WIDTH + units)[None, :] * SPLIT + features[:, None],
        mask=(units < WIDTH)[None, :] & (features < SPLIT)[:, None],
        other=0.0,
    )
    context = tl.load(
        term + group[:, None] * (BLOCKS * 2 * WIDTH) + (net * WIDTH + units)[None, :],
        mask=row_mask[:, None] & (units < WIDTH)[None, :],
        other=0.0,
    )
    return tl.dot(kept, weight, acc=context, input_precision=PRECISION)


@triton.jit
def second_layer(
    kept, term, weights, net, group, row_mask, start2, norm_eps, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    WIDTH1: tl.constexpr, WIDTH2: tl.constexpr, KEPT: tl.constexpr, TILE: tl.constexpr, CHUNK1: tl.constexpr,
    CHUNK2: tl.constexpr, PRECISION: tl.constexpr,
):
    """Preactivations (rows, CHUNK2) of the hidden units from `start2` on, with layer 1's mean and 1 / deviation."""
    split: tl.constexpr = (FEATURES + 1) // 2
    units2 = start2 + tl.arange(0, CHUNK2)
    hidden = tl.zeros((TILE, CHUNK2), tl.float32)
    total, squares = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    for start1 in range(0, WIDTH1, CHUNK1):
        units1 = start1 + tl.arange(0, CHUNK1)
        activation = leaky_relu(
            first_layer(
                kept, term, weights[0], net, group, row_mask, start1, BLOCKS, WIDTH1, split, KEPT, CHUNK1, PRECISION
            )
        )
        total += tl.sum(activation, 1)
        squares += tl.sum(activation * activation, 1)
        weight = tl.load(
            weights[1] + (net * WIDTH2 + units2)[None, :] * WIDTH1 + units1[:, None],
            mask=(units2 < WIDTH2)[None, :] & (units1 < WIDTH1)[:, None],
            other=0.0,
        )
        hidden = tl.dot(activation.to(weight.dtype), weight, acc=hidden, input_precision=PRECISION)
    mean, deviation = statistics(total, squares, WIDTH1, norm_eps)
    bias = tl.load(weights[2] + net * WIDTH2 + units2, mask=units2 < WIDTH2, other=0.0)
    return hidden * deviation[:, None] + bias[None, :], mean, deviation


@triton.jit
def third_layer(
    activation, weights, net, start2, accumulator, FEATURES: tl.constexpr, WIDTH2: tl.constexpr,
    TRANSFORMED: tl.constexpr, CHUNK2: tl.constexpr, PRECISION: tl.constexpr,
):
    """Add the part of the hidden units from `start2` on, before 1 / deviation, to `accumulator` (rows, TRANSFORMED)."""
    moved: tl.constexpr = FEATURES // 2
    units2, outputs = start2 + tl.arange(0, CHUNK2), tl.arange(0, TRANSFORMED)
    weight = tl.load(
        weights[3] + (net * moved + outputs)[None, :] * WIDTH2 + units2[:, None],
        mask=(outputs < moved)[None, :] & (units2 < WIDTH2)[:, None],
        other=0.0,
    )
    return tl.dot(activation, weight, acc=accumulator, input_precision=PRECISION)


@triton.jit
def conditioner(
    kept, term, weights, net, group, row_mask, norm_eps, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    WIDTH1: tl.constexpr, WIDTH2: tl.constexpr, KEPT: tl.constexpr, TRANSFORMED: tl.constexpr, TILE: tl.constexpr,
    CHUNK1: tl.constexpr, CHUNK2: tl.constexpr, PRECISION: tl.constexpr,
):
    """One network: (rows, KEPT) -> its raw output (rows, TRANSFORMED)."""
    moved: tl.constexpr = FEATURES // 2
    product = tl.zeros((TILE, TRANSFORMED), tl.float32)
    total, squares = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    for start2 in range(0, WIDTH2, CHUNK2):
        preactivation, _, _ = second_layer(
            kept, term, weights, net, group, row_mask, start2, norm_eps, BLOCKS, FEATURES, WIDTH1, WIDTH2, KEPT, TILE,
            CHUNK1, CHUNK2, PRECISION,
        )
        activation = leaky_relu(preactivation)
        total += tl.sum(activation, 1)
        squares += tl.sum(activation * activation, 1)
        product = third_layer(
            activation, weights, net, start2, product, FEATURES, WIDTH2, TRANSFORMED, CHUNK2, PRECISION
        )
    _, deviation = statistics(total, squares, WIDTH2, norm_eps)
    outputs = tl.arange(0, TRANSFORMED)
    bias = tl.load(weights[4] + net * moved + outputs, mask=outputs < moved, other=0.0)
    return product * deviation[:, None] + bias[None, :]


@triton.jit(do_not_specialize=SIZES)
def flow_kernel(
    x, term, mixing, mixing_log_det, input_weight, hidden_weight, hidden_bias, output_weight, output_bias, result,
    log_det, inputs, count, groups, norm_eps, scale_bound, BLOCKS: tl.constexpr, FEATURES: tl.constexpr,
    WIDTH1: tl.constexpr, WIDTH2: tl.constexpr, KEPT: tl.constexpr, TRANSFORMED: tl.constexpr, TO_DATA: tl.constexpr,
    BOUNDED: tl.constexpr, TILE: tl.constexpr, CHUNK1: tl.constexpr, CHUNK2: tl.constexpr, PRECISION: tl.constexpr,
):
    """One direction for a tile of rows (first grid axis) of a seed (second): `to_latent` or `to_data`."""
    start, seed = tl.program_id(0).to(tl.int64) * TILE, tl.program_id(1).to(tl.int64)
    rows = tl.arange(0, TILE)
    row_mask = rows < count - start
    group, first_group = groups_of(start, rows, count, groups)
    weights = (input_weight, hidden_weight, hidden_bias, output_weight, output_bias)
    weights = seed_weights(weights, seed, BLOCKS, FEATURES, WIDTH1, WIDTH2)
    term += (seed * groups + first_group) * BLOCKS * 2 * WIDTH1
    mixing += seed * BLOCKS * FEATURES * FEATURES
    inputs += (seed * BLOCKS * count + start) * FEATURES
    at, stride = seed * count + start, count.to(tl.int64)
    result += at * FEATURES
    kept, transformed = load_halves(x + at * FEATURES, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
    change = tl.zeros((TILE,), tl.float32) + tl.load(mixing_log_det + seed)
    for step in range(BLOCKS):
        k = BLOCKS - 1 - step if TO_DATA else step
        matrix = mixing + k * FEATURES * FEATURES
        state = inputs + k * stride * FEATURES
        store_halves(state, kept, transformed, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
        if not TO_DATA:
            kept, transformed = mix(state, matrix, rows, row_mask, FEATURES, KEPT, TRANSFORMED, TILE)
        log_scale, shift = tl.zeros((TILE, TRANSFORMED), tl.float32), tl.zeros((TILE, TRANSFORMED), tl.float32)
        # A loop, not two calls: addresses that both share would stay in registers throughout.
        for n in range(2):
            log_scale = shift
            shift = conditioner(
                kept, term, weights, 2 * k + n, group, row_mask, norm_eps, BLOCKS, FEATURES, WIDTH1, WIDTH2, KEPT,
                TRANSFORMED, TILE, CHUNK1, CHUNK2, PRECISION,
            )
        map = transform.affine_map(log_scale, shift, scale_bound, BOUNDED)
        if TO_DATA:
            change -= tl.sum(transform.log_det(map), 1)
            transformed = transform.inverse(map, transformed)
            store_halves(result, kept, transformed, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
            kept, transformed = mix(result, matrix, rows, row_mask, FEATURES, KEPT, TRANSFORMED, TILE)
        else:
            change += tl.sum(transform.log_det(map), 1)
            transformed = transform.forward(map, transformed)
    store_halves(result, kept, transformed, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
    tl.store(log_det + at + rows, change, mask=row_mask)


@triton.jit
def fold_layer(
    weight, bias, norm_weight, norm_bias, folded, folded_bias, count, OUTPUTS: tl.constexpr, WIDTH: tl.constexpr,
    PADDED: tl.constexpr, TILE: tl.constexpr,
):
    """Fold LayerNorm into the layer after it: a program's part of `count` rows of weights, OUTPUTS of them a net."""
    rows, units = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE), tl.arange(0, PADDED)
    mask = (rows < count)[:, None] & (units < WIDTH)[None, :]
    at, norm_at = rows[:, None] * WIDTH + units[None, :], (rows // OUTPUTS)[:, None] * WIDTH + units[None, :]
    original = tl.load(weight + at, mask=mask, other=0.0)
    scaled = original * tl.load(norm_weight + norm_at, mask=mask, other=0.0)
    mean = tl.sum(scaled, 1) / WIDTH
    tl.store(folded + at, (scaled - mean[:, None]).to(folded.dtype.element_ty), mask=mask)
    shift = tl.sum(original * tl.load(norm_bias + norm_at, mask=mask, other=0.0), 1)
    tl.store(folded_bias + rows, tl.load(bias + rows, mask=rows < count) + shift, mask=rows < count)


@triton.jit(do_not_specialize=SIZES)
def fold_kernel(
    hidden_weight, hidden_bias, norm1_weight, norm1_bias, folded_hidden, folded_hidden_bias,
    output_weight, output_bias, norm2_weight, norm2_bias, folded_output, folded_output_bias, nets,
    MOVED: tl.constexpr, WIDTH1: tl.constexpr, WIDTH2: tl.constexpr, PADDED1: tl.constexpr, PADDED2: tl.constexpr,
    TILE1: tl.constexpr, TILE2: tl.constexpr,
):
    """Fold both LayerNorms of all nets, each into its layer (second grid axis)."""
    if tl.program_id(1) == 0:
        fold_layer(
            hidden_weight, hidden_bias, norm1_weight, norm1_bias, folded_hidden, folded_hidden_bias, nets * WIDTH2,
            WIDTH2, WIDTH1, PADDED1, TILE1,
        )
    else:
        fold_layer(
            output_weight, output_bias, norm2_weight, norm2_bias, folded_output, folded_output_bias, nets * MOVED,
            MOVED, WIDTH2, PADDED2, TILE2,
        )
