# mypy: ignore-errors
r"""The coupling flow on a GPU: device code that takes one block a launch and splits hidden units over programs.

For small batches, where a tile of rows alone cannot fill the chip, and for derivatives, whose state does not fit the
registers of a program that walks through all blocks. Grid: (row tiles, 2 networks x slices of hidden units, seeds).
What the slices of a network must know of each other is small: a block's outputs are sums over layer 2's units, and the
gradient of its kept features is a sum over layer 1's. Each program writes its part, and every program of the next
launch adds the parts up and repeats the few operations on D numbers a row that follow. Programs that repeat the same
operations store the same values in the same place.

Parts and factors lie in *slots*, one for each block of the launch's range [first, first + span). With `PDL`, a launch
may start before its predecessor ends and waits for it here (programmatic dependent launch, sm_90 and later).
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nfkern.kernels.affine import triton_transform as transform
from nfkern.kernels.coupling.triton_kernels import (
    SIZES,
    groups_of,
    leaky_relu,
    load_halves,
    mix,
    second_layer,
    seed_weights,
    statistics,
    store_halves,
    third_layer,
)

# Argument lists stay together.
# fmt: off


@triton.jit
def network_output(
    outputs, sums, slot_net, stride, rows, row_mask, norm_eps, FEATURES: tl.constexpr,
    WIDTH2: tl.constexpr, TRANSFORMED: tl.constexpr, TILE: tl.constexpr, SLICES: tl.constexpr,
):
    """Add up the slices of a network: its output without bias (rows, TRANSFORMED), layer 2's mean and 1 / deviation."""
    moved: tl.constexpr = FEATURES // 2
    columns = tl.arange(0, TRANSFORMED)
    product = tl.zeros((TILE, TRANSFORMED), tl.float32)
    total, squares = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    for part in range(SLICES):
        at = (slot_net * SLICES + part) * stride
        mask = row_mask[:, None] & (columns < moved)[None, :]
        product += tl.load(outputs + at * moved + rows[:, None] * moved + columns[None, :], mask=mask, other=0.0)
        total += tl.load(sums + at * 2 + rows * 2, mask=row_mask, other=0.0)
        squares += tl.load(sums + at * 2 + rows * 2 + 1, mask=row_mask, other=0.0)
    mean, deviation = statistics(total, squares, WIDTH2, norm_eps)
    return product * deviation[:, None], mean, deviation


@triton.jit
def output_biases(weights, net, FEATURES: tl.constexpr, TRANSFORMED: tl.constexpr):
    """A network's output biases, (1, TRANSFORMED)."""
    moved: tl.constexpr = FEATURES // 2
    columns = tl.arange(0, TRANSFORMED)
    return tl.load(weights[4] + net * moved + columns, mask=columns < moved, other=0.0)[None, :]


@triton.jit(do_not_specialize=SIZES)
def forward_step_kernel(
    source, term, mixing, mixing_log_det, input_weight, hidden_weight, hidden_bias, output_weight, output_bias,
    inputs, mixed, changes, result, log_det, saved, layer1, outputs, sums, count, groups, norm_eps, scale_bound,
    first, span, step, BLOCKS: tl.constexpr, FEATURES: tl.constexpr, WIDTH1: tl.constexpr, WIDTH2: tl.constexpr,
    KEPT: tl.constexpr, TRANSFORMED: tl.constexpr, TO_DATA: tl.constexpr, BOUNDED: tl.constexpr, CHAIN: tl.constexpr,
    SAVE: tl.constexpr, TILE: tl.constexpr, CHUNK1: tl.constexpr, CHUNK2: tl.constexpr, SLICES: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):
    """With CHAIN, launch `step` of BLOCKS + 1: finish the block before, begin the next; the last writes the results.

    Without, the conditioners of blocks [first, first + span) from their `inputs`, all at once (second grid axis).
    SAVE keeps layer 2's preactivations in `saved` and layer 1's statistics in `layer1`, for the derivatives; a chain
    has one slot for them, overwritten by the next step. `mixed` (blocks, rows, D) holds each block's state between
    mixing and coupling.
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    moved: tl.constexpr = FEATURES // 2
    start, seed = tl.program_id(0).to(tl.int64) * TILE, tl.program_id(2).to(tl.int64)
    rows = tl.arange(0, TILE)
    row_mask = rows < count - start
    group, first_group = groups_of(start, rows, count, groups)
    weights = (input_weight, hidden_weight, hidden_bias, output_weight, output_bias)
    weights = seed_weights(weights, seed, BLOCKS, FEATURES, WIDTH1, WIDTH2)
    term += (seed * groups + first_group) * BLOCKS * 2 * WIDTH1
    mixing += seed * BLOCKS * FEATURES * FEATURES
    at = seed * count + start
    stride = count.to(tl.int64)
    inputs += (seed * BLOCKS * count + start) * FEATURES
    mixed += (seed * BLOCKS * count + start) * FEATURES
    changes += seed * BLOCKS * count + start
    saves = seed * 2 * count if CHAIN else seed * span * 2 * count
    saved += (saves + start) * WIDTH2
    layer1 += (saves + start) * 2
    outputs += (seed * span * 2 * SLICES * count + start) * moved
    sums += (seed * span * 2 * SLICES * count + start) * 2
    axis = tl.program_id(1)
    part, n = axis % SLICES, (axis // SLICES) % 2
    if CHAIN:
        k = BLOCKS - 1 - step if TO_DATA else step
        slot = k
        save_slot = 0
        if step == 0:
            kept, transformed = load_halves(source + at * FEATURES, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
        else:
            before = k + 1 if TO_DATA else k - 1
            state = mixed + before * stride * FEATURES
            raw, _, _ = network_output(
                outputs, sums, 2 * before, stride, rows, row_mask, norm_eps, FEATURES, WIDTH2,
                TRANSFORMED, TILE, SLICES,
            )
            shift, _, _ = network_output(
                outputs, sums, 2 * before + 1, stride, rows, row_mask, norm_eps, FEATURES,
                WIDTH2, TRANSFORMED, TILE, SLICES,
            )
            raw += output_biases(weights, 2 * before, FEATURES, TRANSFORMED)
            shift += output_biases(weights, 2 * before + 1, FEATURES, TRANSFORMED)
            map = transform.affine_map(raw, shift, scale_bound, BOUNDED)
            change = tl.sum(transform.log_det(map), 1)
            if TO_DATA:
                before_at = inputs + before * stride * FEATURES
                kept, transformed = load_halves(before_at, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
                transformed = transform.inverse(map, transformed)
                store_halves(state, kept, transformed, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
                matrix = mixing + before * FEATURES * FEATURES
                kept, transformed = mix(state, matrix, rows, row_mask, FEATURES, KEPT, TRANSFORMED, TILE)
                tl.store(changes + before * stride + rows, -change, mask=row_mask)
            else:
                kept, transformed = load_halves(state, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
                transformed = transform.forward(map, transformed)
                tl.store(changes + before * stride + rows, change, mask=row_mask)
            tl.debug_barrier()
    else:
        slot = axis // (2 * SLICES)
        k = first + slot
        save_slot = slot
        state = inputs + k * stride * FEATURES
        if TO_DATA:
            kept, transformed = load_halves(state, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
        else:
            matrix = mixing + k * FEATURES * FEATURES
            kept, transformed = mix(state, matrix, rows, row_mask, FEATURES, KEPT, TRANSFORMED, TILE)
            target = mixed + k * stride * FEATURES
            store_halves(target, kept, transformed, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
    if CHAIN and step == BLOCKS:
        store_halves(result + at * FEATURES, kept, transformed, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
        total = tl.zeros((TILE,), tl.float32) + tl.load(mixing_log_det + seed)
        for block in range(BLOCKS):
            total += tl.load(changes + block * stride + rows, mask=row_mask, other=0.0)
        tl.store(log_det + at + rows, total, mask=row_mask)
    else:
        if CHAIN:
            state = inputs + k * stride * FEATURES
            store_halves(state, kept, transformed, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
            if not TO_DATA:
                matrix = mixing + k * FEATURES * FEATURES
                kept, transformed = mix(state, matrix, rows, row_mask, FEATURES, KEPT, TRANSFORMED, TILE)
                target = mixed + k * stride * FEATURES
                store_halves(target, kept, transformed, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
        net, slot_net = 2 * k + n, 2 * slot + n
        start2 = part * CHUNK2
        preactivation, mean, deviation = second_layer(
            kept, term, weights, net, group, row_mask, start2, norm_eps, BLOCKS, FEATURES, WIDTH1, WIDTH2, KEPT, TILE,
            CHUNK1, CHUNK2, PRECISION,
        )
        activation = leaky_relu(preactivation)
        part_at = (slot_net * SLICES + part) * stride
        product = third_layer(
            activation, weights, net, start2, tl.zeros((TILE, TRANSFORMED), tl.float32), FEATURES, WIDTH2,
            TRANSFORMED, CHUNK2, PRECISION,
        )
        columns = tl.arange(0, TRANSFORMED)
        mask = row_mask[:, None] & (columns < moved)[None, :]
        tl.store(outputs + part_at * moved + rows[:, None] * moved + columns[None, :], product, mask=mask)
        tl.store(sums + part_at * 2 + rows * 2, tl.sum(activation, 1), mask=row_mask)
        tl.store(sums + part_at * 2 + rows * 2 + 1, tl.sum(activation * activation, 1), mask=row_mask)
        if SAVE:
            save_at = (2 * save_slot + n) * stride
            units2 = start2 + tl.arange(0, CHUNK2)
            mask = row_mask[:, None] & (units2 < WIDTH2)[None, :]
            tl.store(saved + save_at * WIDTH2 + rows[:, None] * WIDTH2 + units2[None, :], preactivation, mask=mask)
            tl.store(layer1 + save_at * 2 + rows * 2, mean, mask=row_mask)
            tl.store(layer1 + save_at * 2 + rows * 2 + 1, deviation, mask=row_mask)
