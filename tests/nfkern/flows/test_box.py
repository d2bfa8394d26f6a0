"""Bounds of each feature: exact densities in a box, samples within it, and all that a flow is put through."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from support import flows
from torch.distributions import Independent, Normal, TransformedDistribution, transforms
from torch.func import functional_call, jacrev, vmap

import nfkern

NAMES = ["box", "causal_box"]
every_flow = pytest.mark.parametrize("name", NAMES)
LOW, HIGH = [-2.0, 0.0, 10.0], [0.1, 7.0, 10.3]


def ends(flow, dtype=torch.float64):
    return torch.tensor(flow.bounds, dtype=dtype)


@every_flow
def test_log_dets_are_those_of_the_jacobians(name):
    flow = flows.make(name).eval()
    x, context = flows.make_inputs(flow, 4)
    z, log_det = flow.to_latent(x, context)
    again, back = flow.to_data(z, context)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(back, -log_det)
    jacobians = vmap(jacrev(lambda x, c: flow.to_latent(x, c)[0].flatten()))(x, context)
    torch.testing.assert_close(torch.linalg.slogdet(jacobians.flatten(2))[1], log_det)
    assert torch.autograd.gradcheck(lambda x, c: flow.log_prob(x, c), (x.requires_grad_(), context.requires_grad_()))
    (expected,) = torch.autograd.grad(flow.log_prob(x, context).sum(), x)
    torch.testing.assert_close(flow.score(x, context), expected)


def test_gradients_through_samples():
    flow = flows.make("box")
    z, context = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: flow.rsample_and_log_prob((), c, noise=z), (context,))


def test_a_new_flow_is_a_squashed_normal():
    """Against torch's own distributions: a flow without mixing starts as the identity."""
    flow = nfkern.CouplingFlow(3, mixing="none", bounds=(LOW, HIGH)).double()
    low, high = torch.tensor([LOW, HIGH], dtype=torch.float64)
    base = Independent(Normal(torch.zeros(3, dtype=torch.float64), 1.0), 1)
    maps = [transforms.TanhTransform(), transforms.AffineTransform((low + high) / 2, (high - low) / 2)]
    expected = TransformedDistribution(base, maps)
    x = expected.sample((100,))
    torch.testing.assert_close(flow.log_prob(x), expected.log_prob(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (LOW, HIGH),
        (0.1, 0.7),
        (0.0, 0.3),
        (np.float32([-1, 0, 5]), np.float32(8.1)),
        (torch.tensor(-0.3), [3, 1e5, 1e-5]),
    ],
)
def test_samples_are_never_outside(low, high, dtype):
    """Also where the ends are no numbers of the dtype, and where all samples lie at the ends."""
    flow = nfkern.CouplingFlow(3, bounds=(low, high)).to(dtype)
    low, high = ends(flow)
    frozen = flow.freeze()
    for each in (flow, copy.deepcopy(flow), frozen, pickled(frozen), flow.half().to(dtype)):
        x = each.sample((2000,), temperature=20.0).double()
        assert ((x >= low) & (x <= high)).all()
        near = 1e-6 * (1 + low.abs() + high.abs())
        assert (x.amin(0) - low < near).all()
        assert (high - x.amax(0) < near).all()
        assert torch.isfinite(each.log_prob(x.to(dtype))).all()
        assert each.condition().support.check(x.to(dtype)).all()


def pickled(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_flow
@pytest.mark.parametrize("beyond", [0.0, 0.5, math.inf])
def test_what_lies_beyond_is_at_the_end(name, beyond):
    flow = flows.make(name).eval()
    x, context = flows.make_inputs(flow, 4)
    low, high = ends(flow)
    moved, outside = x.clone(), x.clone()
    moved[0, ..., 0], outside[0, ..., 0] = high[0], high[0] + beyond
    moved[1], outside[1] = low, low - beyond
    torch.testing.assert_close(flow.log_prob(outside, context), flow.log_prob(moved, context), rtol=1e-7, atol=1e-6)
    assert torch.isfinite(flow.score(outside, context)).all()


@every_flow
def test_the_box_of_tanh_is_tanh(name):
    options = {"bounds": (-1, 1)}, {"bounds": "tanh"}
    make = flows.make_causal if "causal" in name else flows.make_flow
    boxed, squashed = (make("paper" if make is flows.make_flow else "published", **each).eval() for each in options)
    x, context = flows.make_inputs(squashed, 4)
    for call in ("log_prob", "to_latent", "to_data", "score"):
        found, expected = (getattr(each, call)(x, context) for each in (boxed, squashed))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every_flow
def test_states_hold_weights_alone_and_load_into_any_bounds(name):
    flow = flows.make(name)
    other = type(flow)(**(flow.config | {"bounds": None})).double()
    assert flow.state_dict().keys() == other.state_dict().keys()
    other.load_state_dict(flow.state_dict())
    flow.load_state_dict(other.state_dict(), assign=True)
    x, context = flows.make_inputs(flow, 2)
    u = torch.atanh((x - ends(flow).mean(0)) / ends(flow).diff(dim=0)[0] * 2)
    torch.testing.assert_close(flow.to_latent(x, context)[0], other.to_latent(u, context)[0])


@every_flow
def test_saved_and_restored(name, tmp_path):
    flow = flows.make(name).eval()
    flow.save_pretrained(tmp_path / "flow")
    again = type(flow).from_pretrained(tmp_path / "flow").eval()
    assert again.bounds == flow.bounds
    x, context = flows.make_inputs(flow, 3)
    assert torch.equal(again.log_prob(x, context), flow.log_prob(x, context))


@every_flow
def test_moved_cast_and_called_with_other_weights(name):
    flow = flows.make(name).eval()
    x, context = flows.make_inputs(flow, 3)
    expected = flow.log_prob(x, context)
    single = copy.deepcopy(flow).float()
    torch.testing.assert_close(single.log_prob(x.float(), context.float()).double(), expected, rtol=1e-3, atol=1e-3)
    # They move with the weights, and not in every call.
    assert all(each._data_map() is each._data_map() for each in (flow, single, flow.freeze()))
    assert single._data_map().numbers.dtype == torch.float32
    # Bounds are those that were given, and not what float32 made of them.
    torch.testing.assert_close(
        single.double().to_data(torch.zeros_like(x), context)[0].mean((0, 1)), mean(flow, x, context)
    )
    skeleton = copy.deepcopy(flow).to("meta")
    assert skeleton.log_prob(x.to("meta"), context.to("meta")).shape == (3,)
    assert torch.equal(functional_call(skeleton, dict(flow.named_parameters()), (x, context)), flow(x, context))


def mean(flow, x, context):
    return flow.to_data(torch.zeros_like(x), context)[0].mean((0, 1))


def test_one_call_without_derivatives_is_one_with_them():
    """The first is one step of C++ between the bounds' maps."""
    flow = flows.make("box", torch.float32).eval()
    x, context = flows.make_inputs(flow, 20)
    for call in (flow.log_prob, flow.to_latent, flow.to_data):
        expected = call(x, context)
        with torch.no_grad():
            torch.testing.assert_close(call(x, context), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad(), pytest.raises(ValueError, match=r"x: expected shape \(\.\.\., 6\), got \(20, 5\)"):
        flow.log_prob(x[:, :5], context)
    with torch.no_grad(), pytest.raises(TypeError, match="x: expected dtype torch.float32"):
        flow.log_prob(x.double(), context)


def test_shorter_sequences_have_densities_of_their_own():
    flow = flows.make_causal("box", context_mode="prefix").eval()
    context = torch.randn(3, 4, dtype=torch.float64)
    x, log_prob = flow.rsample_and_log_prob((), context, tokens=2)
    torch.testing.assert_close(flow.log_prob(x, context), log_prob)
    jacobian = vmap(jacrev(lambda x, c: flow.to_latent(x, c)[0].flatten()))(x, context).flatten(2)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], flow.to_latent(x, context)[1])


@pytest.mark.exhaustive(part="export")
def test_compiled_and_exported():
    flow = flows.make("box", torch.float32).eval()
    x, context = flows.make_inputs(flow, 4)
    compiled = torch.compile(flow, fullgraph=True)
    torch.testing.assert_close(compiled(x, context), flow(x, context))
    sampled = torch.compile(lambda c, z: flow.rsample_and_log_prob((), c, noise=z), fullgraph=True)
    for found, expected in zip(sampled(context, x), flow.rsample_and_log_prob((), context, noise=x), strict=True):
        torch.testing.assert_close(found, expected)
    exported = torch.export.export(flow, (x, context)).module()
    torch.testing.assert_close(exported(x, context), flow(x, context))
