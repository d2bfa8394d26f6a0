"""Calls of the coupling ops in float64, and the tolerance within which a fast path must give their results."""

import torch

from nfkern.kernels import CouplingParameters, compose, coupling, use_reference
from support import flows

GRADIENT_NAMES = ("x", "term", "mixing", "mixing_log_det", *CouplingParameters._fields)
DIRECTIONS = ("to_latent", "to_data")


def problem(name="paper", rows=12, groups=12, blocks=2, spread=None, **options):
    """Float64 arguments of to_latent or to_data: rows, context term, matrices, parameters, settings."""
    flow = flows.make_flow(name, **({"blocks": blocks} | options))
    x = torch.randn(rows, flow.features, dtype=torch.float64)
    term = torch.randn(groups, flow.blocks, 2, flow.hidden[0], dtype=torch.float64)
    parameters = CouplingParameters(*(p.detach() for p in flow._parameters_tuple))
    if spread is not None:
        parameters = parameters._replace(output_weight=parameters.output_weight * spread / 0.3)
    matrices = {inverse: compose(flow.mixing_lu.detach(), flow.permutation, inverse) for inverse in (False, True)}
    return x, term, matrices, parameters, {"norm_eps": flow.norm_eps, "scale_bound": flow.scale_bound}


def mapping(direction, settings):
    """One of the maps as a function of tensors, and of the hidden products' dtype."""

    def call(*arguments, compute_dtype=None):
        return getattr(coupling, direction)(*arguments, **settings, compute_dtype=compute_dtype)

    return call


def scores(settings):
    """The one-sweep score and the plain one of the same flow, as functions of tensors."""

    def sweep(*arguments, compute_dtype=None):
        return coupling.to_data_with_score(*arguments, **settings, compute_dtype=compute_dtype)

    def score(*arguments, compute_dtype=None):
        return (coupling.score(*arguments, **settings, compute_dtype=compute_dtype),)

    return sweep, score


def gradients(direction, settings):
    """A function to the gradients of everything, for fixed gradients of the results."""

    def call(x, term, mixing, mixing_log_det, parameters, weights, compute_dtype=None):
        leaves = [t.detach().clone().requires_grad_() for t in (x, term, mixing, mixing_log_det, *parameters)]
        result, log_det = getattr(coupling, direction)(
            *leaves[:4], CouplingParameters(*leaves[4:]), **settings, compute_dtype=compute_dtype
        )
        return torch.autograd.grad((result * weights[0]).sum() + (log_det * weights[1]).sum(), leaves)

    return call


def random_gradients(x):
    """Gradients of a map's results: (rows, features) and (rows)."""
    return [torch.randn_like(x), torch.randn(len(x), dtype=x.dtype)]


def single(value):
    """Float64 tensors, however nested, in float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if hasattr(value, "_make"):
        return value._make(map(single, value))
    return type(value)(map(single, value)) if isinstance(value, tuple | list) else value


def compare(call, arguments, names, terms=1, compute_dtype=None):
    """A call's results on the kernels within the tolerance of those on the reference in float64."""
    with use_reference():
        exact = call(*arguments)
        reference = call(*single(arguments), compute_dtype=compute_dtype)
    actual = call(*single(arguments), compute_dtype=compute_dtype)
    rounding = 4 * torch.finfo(compute_dtype or torch.float32).eps * terms**0.5
    for name, e, r, a in zip(names, exact, reference, actual, strict=True):
        assert a.shape == e.shape
        allowed = 2 * (r.double() - e).abs().max() + rounding * e.abs().max()
        assert (a.double() - e).abs().max() <= allowed, name


def compare_in_float64(call, arguments, names, terms=1):
    """The same for float64: its rounding errors are float32's, measured, times the ratio of the units of rounding.

    Or what roundings of the arguments do, where that is more: a LayerNorm of few units is a step, whose ends float32
    rounds to without an error.
    """
    with use_reference():
        exact, rounded = call(*arguments), call(*single(arguments))
        moved = [call(*nudged(arguments, seed)) for seed in range(2)]
    eps = torch.finfo(torch.float64).eps
    ratio = eps / torch.finfo(torch.float32).eps
    for name, e, r, a, *near in zip(names, exact, rounded, call(*arguments), *moved, strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype)
        measured = torch.stack([ratio * (r.double() - e).abs().max(), *((n - e).abs().max() for n in near)]).max()
        # Three times, not twice: the float64 reference has errors of its own.
        allowed = 3 * measured + 4 * eps * terms**0.5 * e.abs().max()
        assert (a - e).abs().max() <= allowed, name


def nudged(value, seed):
    """Float64 tensors, however nested, each number moved by one unit of rounding up or down."""
    generator = torch.Generator().manual_seed(seed)

    def nudge(value):
        if isinstance(value, torch.Tensor):
            if not value.is_floating_point():
                return value
            signs = (torch.randint(2, value.shape, generator=generator) * 2 - 1).to(value.dtype)
            return value * (1 + torch.finfo(value.dtype).eps * signs)
        if hasattr(value, "_make"):
            return value._make(map(nudge, value))
        return type(value)(map(nudge, value)) if isinstance(value, tuple | list) else value

    return nudge(value)


def compare_gradients_in_16_bits(call, arguments, names, compute_dtype, step):
    """A gradient in 16 bits; `step` is the largest relative error of one rounding.

    LeakyReLU's slope jumps: where rounding carries a preactivation across 0, a row of the gradient jumps with it. Of
    12288 preactivations with deviation about 1, rounded to 2^-11, some ten land within rounding of 0, most without
    weight. So all rows of x but a few must be right to rounding: three products of a `step` a block, and three blocks.
    What is summed over rows is right in the mean square, but for such a row among some 64.
    """
    with use_reference():
        exact = call(*arguments)
        reference = call(*single(arguments), compute_dtype=compute_dtype)
    actual = call(*single(arguments), compute_dtype=compute_dtype)
    errors = (actual[0].double() - exact[0]).abs().amax(1)
    assert (errors <= 9 * step * exact[0].abs().max()).double().mean() >= 0.9
    assert errors.max() <= 0.2 * exact[0].abs().max()
    for name, e, r, a in zip(names, exact, reference, actual, strict=True):
        assert a.shape == e.shape
        assert (a.double() - e).norm() <= 2 * (r.double() - e).norm() + 0.1 * e.norm(), name
