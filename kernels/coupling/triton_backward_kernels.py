# mypy: ignore-errors
r"""The coupling flow on a GPU: device code of the derivatives, one block a launch as in `triton_step_kernels.py`.

For one folded network :math:`o = r_2 W_3 u_2 + b_3`, :math:`p_2 = r_1 W_2 u_1 + b_2`, with the gradient g of o,

.. math:: \bar u_2 = r_2 W_3^T g - \frac{r_2^2}{h_2} \langle g, o - b_3 \rangle (u_2 - m_2), \quad
          \bar u_1 = r_1 W_2^T \bar p_2 - \frac{r_1^2}{h_1} \langle \bar p_2, p_2 - b_2 \rangle (u_1 - m_1):

LayerNorm's derivative needs two sums a row, and both are inner products that are known before it is applied.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nfkern.kernels.affine import triton_transform as transform
from nfkern.kernels.coupling.triton_kernels import (
    SIZES,
    first_layer,
    groups_of,
    leaky_relu,
    load_halves,
    mix,
    seed_weights,
    store_halves,
)
from nfkern.kernels.coupling.triton_step_kernels import network_output, output_biases

# Argument lists stay together.
# fmt: off


@triton.jit
def slope(x):
    """Derivative of `leaky_relu` at a preactivation."""
    return tl.where(x > 0, 1.0, 0.01)


@triton.jit(do_not_specialize=SIZES)
def backward_step_kernel(
    grad, grad_log_det, inputs, term, mixing, input_weight, hidden_weight, hidden_bias, output_weight, output_bias,
    mixed, saved, layer1, outputs, sums, pending, parts, mixed_grad, result, grad1_factor, normalized1_factor,
    normalized2_factor, grad2_factor, grad3_factor, count, groups, norm_eps, scale_bound, first, span, step,
    BLOCKS: tl.constexpr, FEATURES: tl.constexpr, WIDTH1: tl.constexpr, WIDTH2: tl.constexpr, KEPT: tl.constexpr,
    TRANSFORMED: tl.constexpr, MODE: tl.constexpr, BOUNDED: tl.constexpr, STORE: tl.constexpr, TILE: tl.constexpr,
    CHUNK1: tl.constexpr, CHUNK2: tl.constexpr, SLICES: tl.constexpr, SLICES1: tl.constexpr, PRECISION: tl.constexpr,
    PDL: tl.constexpr,
):
    """Launch `step` of span + 1 of a derivative: finish the gradient of the block before, begin the next block's.

    MODE is the map that is differentiated, "to_latent" or "to_data", or "score": the gradient of log p, from noise to
    data. The programs of a network split layer 1's units into SLICES1. `pending` and `mixed_grad` (span, rows, D) hold
    the gradient of a block's state before its networks' part is added, and on the other side of its mixing.

    STORE also writes the factors of the parameters' gradients, (rows, width) for each net, whose products over the
    batch are left to matrix multiplications: bit-equal from run to run, which atomic sums would not be.
    """
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    split: tl.constexpr = (FEATURES + 1) // 2
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
    pending += (seed * span * count + start) * FEATURES
    mixed_grad += (seed * span * count + start) * FEATURES
    outputs += (seed * span * 2 * SLICES * count + start) * moved
    sums += (seed * span * 2 * SLICES * count + start) * 2
    parts += (seed * span * 2 * SLICES1 * count + start) * split
    saves = seed * 2 * count if MODE == "score" else seed * span * 2 * count
    saved += (saves + start) * WIDTH2
    layer1 += (saves + start) * 2
    features, columns = tl.arange(0, KEPT), tl.arange(0, TRANSFORMED)
    slot = step if MODE == "to_data" else span - 1 - step
    k = first + slot
    if step == 0:
        if MODE == "score":
            state = inputs + k * stride * FEATURES
            grad_kept, grad_moved = load_halves(state, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
            grad_kept, grad_moved = -grad_kept, -grad_moved
        else:
            grad_kept, grad_moved = load_halves(grad + at * FEATURES, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
    else:
        before = slot - 1 if MODE == "to_data" else slot + 1
        state = pending + before * stride * FEATURES
        grad_kept, grad_moved = load_halves(state, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
        mask = row_mask[:, None] & (features < split)[None, :]
        for part in range(2 * SLICES1):
            part_at = parts + (before * 2 * SLICES1 + part) * stride * split
            grad_kept += tl.load(part_at + rows[:, None] * split + features[None, :], mask=mask, other=0.0)
        if MODE != "to_data":
            state = mixed_grad + before * stride * FEATURES
            store_halves(state, grad_kept, grad_moved, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
            matrix = mixing + (first + before) * FEATURES * FEATURES
            grad_kept, grad_moved = mix(state, matrix, rows, row_mask, FEATURES, KEPT, TRANSFORMED, TILE, True)
    if step == span:
        store_halves(result + at * FEATURES, grad_kept, grad_moved, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
    else:
        n, part = tl.program_id(1) // SLICES1, tl.program_id(1) % SLICES1
        net, slot_net = 2 * k + n, 2 * slot + n
        if MODE == "to_data":
            state = mixed_grad + slot * stride * FEATURES
            store_halves(state, grad_kept, grad_moved, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
            matrix = mixing + k * FEATURES * FEATURES
            grad_kept, grad_moved = mix(state, matrix, rows, row_mask, FEATURES, KEPT, TRANSFORMED, TILE, True)
        scale_product, scale_mean, scale_deviation = network_output(
            outputs, sums, 2 * slot, stride, rows, row_mask, norm_eps, FEATURES, WIDTH2, TRANSFORMED,
            TILE, SLICES,
        )
        shift_product, shift_mean, shift_deviation = network_output(
            outputs, sums, 2 * slot + 1, stride, rows, row_mask, norm_eps, FEATURES, WIDTH2,
            TRANSFORMED, TILE, SLICES,
        )
        raw = scale_product + output_biases(weights, 2 * k, FEATURES, TRANSFORMED)
        shift = shift_product + output_biases(weights, 2 * k + 1, FEATURES, TRANSFORMED)
        map = transform.affine_map(raw, shift, scale_bound, BOUNDED)
        source = mixed if MODE == "to_latent" else inputs
        kept, transformed = load_halves(source + k * stride * FEATURES, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
        if MODE == "to_data":
            if STORE:
                state = mixed + k * stride * FEATURES
                moved_features = transform.inverse(map, transformed)
                store_halves(state, kept, moved_features, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
            log_det_grad = tl.load(grad_log_det + at + rows, mask=row_mask, other=0.0)[:, None]
            grad_moved, grad_log_scale, grad_shift = transform.inverse_vjp(
                map, transformed, grad_moved, log_det_grad, scale_bound, BOUNDED
            )
        elif MODE == "to_latent":
            log_det_grad = tl.load(grad_log_det + at + rows, mask=row_mask, other=0.0)[:, None]
            grad_moved, grad_log_scale, grad_shift = transform.forward_vjp(
                map, transformed, grad_moved, log_det_grad, scale_bound, BOUNDED
            )
        else:
            # `transformed` is the noise that this block starts from, and log_det's gradient is 1.
            grad_moved, grad_log_scale, grad_shift = transform.forward_vjp_from_latent(
                map, transformed, grad_moved, 1.0, scale_bound, BOUNDED
            )
        state = pending + slot * stride * FEATURES
        store_halves(state, grad_kept, grad_moved, rows, row_mask, FEATURES, KEPT, TRANSFORMED)
        grad3 = tl.where(n == 0, grad_log_scale, grad_shift)
        mean2 = tl.where(n == 0, scale_mean, shift_mean)
        deviation2 = tl.where(n == 0, scale_deviation, shift_deviation)
        inner2 = deviation2 / WIDTH2 * tl.sum(grad3 * tl.where(n == 0, scale_product, shift_product), 1)
        save_at = n * stride if MODE == "score" else slot_net * stride
        saved += save_at * WIDTH2
        mean1 = tl.load(layer1 + save_at * 2 + rows * 2, mask=row_mask, other=0.0)
        deviation1 = tl.load(layer1 + save_at * 2 + rows * 2 + 1, mask=row_mask, other=0.0)
        factor_at = (seed * 2 * span + slot_net) * count + start
        if STORE:
            mask = row_mask[:, None] & (columns < moved)[None, :]
            tl.store(grad3_factor + factor_at * moved + rows[:, None] * moved + columns[None, :], grad3, mask=mask)
        normalized2_factor += factor_at * WIDTH2
        grad2_factor += factor_at * WIDTH2
        units1 = part * CHUNK2 + tl.arange(0, CHUNK2)
        through = tl.zeros((TILE, CHUNK2), tl.float32)
        inner1 = tl.zeros((TILE,), tl.float32)
        for start2 in range(0, WIDTH2, CHUNK1):
            units2 = start2 + tl.arange(0, CHUNK1)
            mask2 = row_mask[:, None] & (units2 < WIDTH2)[None, :]
            p2 = tl.load(saved + rows[:, None] * WIDTH2 + units2[None, :], mask=mask2, other=0.0)
            centred2 = leaky_relu(p2) - mean2[:, None]
            weight3 = tl.load(
                weights[3] + (net * moved + columns)[:, None] * WIDTH2 + units2[None, :],
                mask=(columns < moved)[:, None] & (units2 < WIDTH2)[None, :],
                other=0.0,
            )
            grad2 = tl.dot(grad3, weight3, input_precision=PRECISION) - inner2[:, None] * centred2
            grad2 *= deviation2[:, None] * slope(p2)
            bias2 = tl.load(weights[2] + net * WIDTH2 + units2, mask=units2 < WIDTH2, other=0.0)
            # Units beyond the width have neither preactivation nor bias nor, below, weights.
            inner1 += tl.sum(grad2 * (p2 - bias2[None, :]), 1)
            weight2 = tl.load(
                weights[1] + (net * WIDTH2 + units2)[:, None] * WIDTH1 + units1[None, :],
                mask=(units2 < WIDTH2)[:, None] & (units1 < WIDTH1)[None, :],
                other=0.0,
            )
            through = tl.dot(grad2.to(weight2.dtype), weight2, acc=through, input_precision=PRECISION)
            if STORE:
                at2 = rows[:, None] * WIDTH2 + units2[None, :]
                tl.store(grad2_factor + at2, grad2.to(grad2_factor.dtype.element_ty), mask=mask2 & (part == 0))
                tl.store(normalized2_factor + at2, centred2 * deviation2[:, None], mask=mask2 & (part == 0))
        p1 = first_layer(
            kept, term, weights[0], net, group, row_mask, part * CHUNK2, BLOCKS, WIDTH1, split, KEPT, CHUNK2, PRECISION
        )
        centred1 = leaky_relu(p1) - mean1[:, None]
        grad1 = through - (deviation1 / WIDTH1 * inner1)[:, None] * centred1
        grad1 *= deviation1[:, None] * slope(p1)
        weight1 = tl.load(
            weights[0] + (net * WIDTH1 + units1)[:, None] * split + features[None, :],
            mask=(units1 < WIDTH1)[:, None] & (features < split)[None, :],
            other=0.0,
        )
        grad_part = tl.dot(grad1, weight1, input_precision=PRECISION)
        part_at = parts + (slot_net * SLICES1 + part) * stride * split
        mask = row_mask[:, None] & (features < split)[None, :]
        tl.store(part_at + rows[:, None] * split + features[None, :], grad_part, mask=mask)
        if STORE:
            mask1 = row_mask[:, None] & (units1 < WIDTH1)[None, :]
            normalized1 = (centred1 * deviation1[:, None]).to(normalized1_factor.dtype.element_ty)
            at1 = rows[:, None] * WIDTH1 + units1[None, :]
            tl.store(normalized1_factor + factor_at * WIDTH1 + at1, normalized1, mask=mask1)
            term_at = grad1_factor + at * (BLOCKS * 2 * WIDTH1) + net * WIDTH1
            tl.store(term_at + rows[:, None] * (BLOCKS * 2 * WIDTH1) + units1[None, :], grad1, mask=mask1)


@triton.jit
def layer_gradients(
    outer, sums, weight, norm_weight, norm_bias, weight_grad, norm_weight_grad, norm_bias_grad, net,
    OUTPUTS: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
):
    """One net's gradients of a weight and of the LayerNorm before it, for a program's columns."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < WIDTH
    scale = tl.load(norm_weight + net * WIDTH + columns, mask=inside, other=0.0)
    shift = tl.load(norm_bias + net * WIDTH + columns, mask=inside, other=0.0)
    of_scale, of_shift = tl.zeros((COLUMNS,), tl.float32), tl.zeros((COLUMNS,), tl.float32)
    for start in range(0, OUTPUTS, TILE):
        outputs = start + tl.arange(0, TILE)
        mask = (outputs < OUTPUTS)[:, None] & inside[None, :]
        at = (net * OUTPUTS + outputs)[:, None] * WIDTH + columns[None, :]
        product = tl.load(outer + at, mask=mask, other=0.0).to(tl.float32)
        original = tl.load(weight + at, mask=mask, other=0.0)
        total = tl.load(sums + net * OUTPUTS + outputs, mask=outputs < OUTPUTS, other=0.0)[:, None]
        tl.store(weight_grad + at, product * scale[None, :] + total * shift[None, :], mask=mask)
        of_scale += tl.sum(product * original, 0)
        of_shift += tl.sum(total * original, 0)
    tl.store(norm_weight_grad + net * WIDTH + columns, of_scale, mask=inside)
    tl.store(norm_bias_grad + net * WIDTH + columns, of_shift, mask=inside)


@triton.jit
def parameter_gradients_kernel(
    outer1, sums2, hidden_weight, norm1_weight, norm1_bias, hidden_grad, norm1_weight_grad, norm1_bias_grad,
    outer2, sums3, output_weight, norm2_weight, norm2_bias, output_grad, norm2_weight_grad, norm2_bias_grad,
    MOVED: tl.constexpr, WIDTH1: tl.constexpr, WIDTH2: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr,
):
    """`conditioner.parameter_gradients` of a net (second grid axis): layer 2's weights or layer 3's (third)."""
    net = tl.program_id(1).to(tl.int64)
    if tl.program_id(2) == 0:
        layer_gradients(
            outer1, sums2, hidden_weight, norm1_weight, norm1_bias, hidden_grad, norm1_weight_grad, norm1_bias_grad,
            net, WIDTH2, WIDTH1, TILE, COLUMNS,
        )
    else:
        layer_gradients(
            outer2, sums3, output_weight, norm2_weight, norm2_bias, output_grad, norm2_weight_grad, norm2_bias_grad,
            net, MOVED, WIDTH2, TILE, COLUMNS,
        )
