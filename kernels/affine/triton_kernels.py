# mypy: ignore-errors
"""Causal affine coupling on a GPU: device code."""

import triton
import triton.language as tl

from nfkern.kernels.affine.triton_transform import affine_map, forward, forward_vjp, log_det

# Argument lists stay together.
# fmt: off


@triton.jit
def _pair_of(element, row, TOKENS: tl.constexpr, FEATURES: tl.constexpr, UNMOVED: tl.constexpr, FLIPPED: tl.constexpr):
    """Return the place of an element's log_scale, and a mask of those that have one; the shift is FEATURES on."""
    token = element // FEATURES
    seen = TOKENS - 1 - token if FLIPPED else token
    pair = seen - UNMOVED
    at = ((row * (TOKENS - UNMOVED) + pair) * 2) * FEATURES + element % FEATURES
    return at, (element < TOKENS * FEATURES) & (pair >= 0)


@triton.jit
def causal_affine_kernel(
    x, pairs, log_det_before, z, total, bound,
    TOKENS: tl.constexpr, FEATURES: tl.constexpr, UNMOVED: tl.constexpr, FLIPPED: tl.constexpr, BOUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A row of tokens: z, and the running log-determinant with this map's added."""
    row, size = tl.program_id(0).to(tl.int64), TOKENS * FEATURES
    change = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, size, BLOCK):
        element = start + tl.arange(0, BLOCK)
        at, moved = _pair_of(element, row, TOKENS, FEATURES, UNMOVED, FLIPPED)
        log_scale = tl.load(pairs + at, mask=moved, other=0.0)
        shift = tl.load(pairs + at + FEATURES, mask=moved, other=0.0)
        map = affine_map(log_scale, shift, bound, BOUNDED)
        values = tl.load(x + row * size + element, mask=element < size, other=0.0)
        tl.store(z + row * size + element, forward(map, values), mask=element < size)
        change += log_det(map)
    tl.store(total + row, tl.load(log_det_before + row) + tl.sum(change, 0))


@triton.jit
def causal_affine_backward_kernel(
    grad, grad_log_det, x, pairs, grad_x, grad_pairs, bound,
    TOKENS: tl.constexpr, FEATURES: tl.constexpr, UNMOVED: tl.constexpr, FLIPPED: tl.constexpr, BOUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of a row of tokens and of its pairs."""
    row, size = tl.program_id(0).to(tl.int64), TOKENS * FEATURES
    through = tl.load(grad_log_det + row)
    for start in range(0, size, BLOCK):
        element = start + tl.arange(0, BLOCK)
        at, moved = _pair_of(element, row, TOKENS, FEATURES, UNMOVED, FLIPPED)
        log_scale = tl.load(pairs + at, mask=moved, other=0.0)
        shift = tl.load(pairs + at + FEATURES, mask=moved, other=0.0)
        map = affine_map(log_scale, shift, bound, BOUNDED)
        inside = element < size
        values = tl.load(x + row * size + element, mask=inside, other=0.0)
        grad_z = tl.load(grad + row * size + element, mask=inside, other=0.0)
        result, grad_log_scale, grad_shift = forward_vjp(map, values, grad_z, through, bound, BOUNDED)
        tl.store(grad_x + row * size + element, result, mask=inside)
        tl.store(grad_pairs + at, grad_log_scale, mask=moved)
        tl.store(grad_pairs + at + FEATURES, grad_shift, mask=moved)
