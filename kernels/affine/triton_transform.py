# mypy: ignore-errors
"""The element-wise affine map on a GPU: device code with the formulas of `transform.py`.

A map is the tuple (log_scale, shift) that `affine_map` gives; `bound` is read with BOUNDED alone.
"""

import triton
import triton.language as tl

# Argument lists stay together.
# fmt: off


@triton.jit
def affine_map(raw_log_scale, shift, bound, BOUNDED: tl.constexpr):
    """The maps of raw parameters."""
    log_scale = raw_log_scale
    if BOUNDED:
        log_scale = bound * _tanh(raw_log_scale / bound)
    return log_scale, shift


@triton.jit
def _tanh(x):
    """The hyperbolic tangent to float32's rounding: where it is small, 1 - 2 / (e^2x + 1) would cancel.

    The series' next term is 1e-8 of the sum at a quarter. From 10 on it is 1; a NaN stays one.
    """
    square = x * x
    series = -1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * 62.0 / 2835.0))
    small = x * (1.0 + square * series)
    return tl.where(tl.abs(x) < 0.25, small, 1.0 - 2.0 / (tl.exp(2.0 * tl.where(x > 10.0, 10.0, x)) + 1.0))


@triton.jit
def forward(map, x):
    """Data to noise."""
    return (x - map[1]) * tl.exp(-map[0])


@triton.jit
def inverse(map, z):
    """Noise to data."""
    return z * tl.exp(map[0]) + map[1]


@triton.jit
def log_det(map):
    """Log-determinant of `forward` for each feature; that of `inverse` is its negative."""
    return -map[0]


@triton.jit
def forward_vjp(map, x, grad, grad_log_det, bound, BOUNDED: tl.constexpr):
    """Gradients of x and of the raw parameters."""
    grad_x = grad * tl.exp(-map[0])
    return grad_x, _unbounded(map, -grad_x * (x - map[1]) - grad_log_det, bound, BOUNDED), -grad_x


@triton.jit
def forward_vjp_from_latent(map, z, grad, grad_log_det, bound, BOUNDED: tl.constexpr):
    """Gradients as `forward_vjp`, where z is known and x is not."""
    grad_x = grad * tl.exp(-map[0])
    return grad_x, _unbounded(map, -grad * z - grad_log_det, bound, BOUNDED), -grad_x


@triton.jit
def inverse_vjp(map, z, grad, grad_log_det, bound, BOUNDED: tl.constexpr):
    """Gradients of z and of the raw parameters; `grad_log_det` is that of the inverse's log-determinant."""
    grad_z = grad * tl.exp(map[0])
    return grad_z, _unbounded(map, grad_z * z + grad_log_det, bound, BOUNDED), grad


@triton.jit
def _unbounded(map, grad, bound, BOUNDED: tl.constexpr):
    """Gradient of the raw log_scale, from that of the bounded one."""
    result = grad
    if BOUNDED:
        ratio = map[0] / bound
        result = grad * (1.0 - ratio * ratio)
    return result
