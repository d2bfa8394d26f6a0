"""Data on the border of a bounded flow: one density and one derivative, whatever the dtype and whoever asks."""

import copy
import math

import pytest
import torch
from support import flows
from torch.func import grad, jvp, vmap

from nfkern.flows import bounds

NAMES = ["tanh_bounds", "inverted_tanh", "causal_tanh_bounds"]
every_flow = pytest.mark.parametrize("name", NAMES)


def on_the_border(name, dtype, border=1.0):
    """A flow, and events with one, some and all numbers on the border."""
    flow = flows.make(name, dtype).eval()
    x, context = flows.make_inputs(flow, 4)
    rows = x.flatten(1)
    rows[0, 0], rows[1, ::2], rows[2] = border, -border, border
    return flow, rows.view_as(x), context


@every_flow
@pytest.mark.parametrize("frozen", [False, True])
def test_single_and_double_precision_agree(name, frozen):
    flow, x, context = on_the_border(name, torch.float32)
    exact = copy.deepcopy(flow).double()
    models = (flow.freeze(), exact.freeze()) if frozen else (flow, exact)
    actual, expected = models[0].log_prob(x, context), models[1].log_prob(x.double(), context.double())
    # An error of u = 8.7 by a rounding step, 5e-7, times a few thousand numbers of the flow's slope.
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=2e-4)


@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("border", [1.0, 1 - 2**-30, 1.5, math.inf])
def test_all_that_lies_beyond_is_at_the_last_number_inside(name, dtype, border):
    flow, x, context = on_the_border(name, dtype, border)
    inside = x.clamp(-bounds.END, bounds.END)
    assert inside.abs().max() == bounds.END < 1
    for call in (flow.log_prob, flow.score, lambda x, c: flow.to_latent(x, c)[0]):
        assert torch.equal(call(x, context), call(inside, context))


@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("border", [1.0, 1.5])
def test_both_derivatives_are_those_at_the_last_number_inside(name, dtype, border):
    flow, x, context = on_the_border(name, dtype, border)
    inside = x.clamp(-bounds.END, bounds.END)

    def first(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(flow.log_prob(x, context).sum(), x)[0]

    # What is multiplied by 1 / (1 - x^2) is a sum over blocks, of some hundred rounding errors.
    expected, rtol = first(inside), 1000 * torch.finfo(dtype).eps
    on_border = x.abs() >= 1
    assert (expected[on_border].abs() > 1e5).all()
    for actual in (first(x), flow.score(x, context), vmap(grad(flow.log_prob))(x, context)):
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_tangents_on_the_border():
    flow, x, context = on_the_border("tanh_bounds", torch.float64)
    tangent = jvp(lambda x: flow.log_prob(x, context), (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, flow.score(x, context).sum(1), rtol=1e-9, atol=1e-9)


@every_flow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_never_reach_the_border(name, dtype):
    flow, _, context = on_the_border(name, dtype)
    # Not so large that exp overflows in a causal flow.
    noise = 3 * torch.randn(1000, *context.shape[:1], *flow.event_shape, dtype=dtype)
    x = flow.sample((1000,), context, noise=noise)
    assert x.abs().max() == bounds.END
    assert torch.isfinite(flow.log_prob(x, context)).all()


def test_the_log_det_of_a_sample_is_that_of_the_number_returned():
    u = torch.tensor([[-40.0, 0.5, 9.0]], requires_grad=True)
    x, log_det = bounds.squash(u)
    expected = torch.log1p(-x.double().square()).sum(1)
    torch.testing.assert_close(log_det.double(), expected, rtol=1e-5, atol=1e-5)
    # What keeps a policy away from the border must not end there.
    (gradient,) = torch.autograd.grad(log_det.sum(), u)
    torch.testing.assert_close(gradient, -2 * torch.tanh(u.detach()), rtol=1e-6, atol=1e-6)


def test_nan_stays_nan():
    flow, x, context = on_the_border("tanh_bounds", torch.float64)
    x[3, 1] = math.nan
    assert flow.log_prob(x, context).isnan().tolist() == [False, False, False, True]
