"""A flow's distribution, as other libraries call distributions."""

import numpy as np
import pytest
import torch
from support import flows
from torch.distributions import Independent, Normal, TransformedDistribution, constraints, kl_divergence
from torch.distributions.transforms import AffineTransform

from nfkern import FlowDistribution


def make(name="paper", *batch):
    flow = flows.make(name).eval()
    return flow, flow.condition(flows.make_inputs(flow, *batch)[1])


@pytest.mark.parametrize("name", ["paper", "unconditional", "causal_prefix"])
@pytest.mark.parametrize(
    ("before", "after"), [((), (3,)), ((4,), (3, 4)), ((4, 1), (2, 4, 3)), ((2,), (0, 2)), ((2,), (2,))]
)
def test_expand(name, before, after):
    if name == "unconditional":
        before = ()
    flow, distribution = make(name, *before)
    expanded = distribution.expand(torch.Size(after))
    assert isinstance(expanded, FlowDistribution)
    assert (expanded.batch_shape, expanded.event_shape) == (torch.Size(after), torch.Size(flow.event_shape))
    assert (expanded.flow, expanded.has_rsample) == (flow, distribution.has_rsample)
    noise = 0.5 * torch.randn(2, *after, *flow.event_shape, dtype=torch.float64)
    x = expanded.sample((2,), noise=noise)
    assert x.shape == noise.shape
    torch.testing.assert_close(expanded.log_prob(x), distribution.log_prob(x))
    torch.testing.assert_close(x, flow.to_data(noise, distribution.projected)[0])


def test_what_does_not_expand_is_refused():
    with pytest.raises(ValueError, match=r"batch_shape: expected one that \(4,\) broadcasts to, got \(3,\)"):
        make("paper", 4)[1].expand((3,))
    for shape in ((2.0, 4), "ab", None):
        with pytest.raises(TypeError, match="batch_shape: expected ints, got"):
            make("paper", 4)[1].expand(shape)
    with pytest.raises(ValueError, match="batch_shape: expected one that"):
        make("paper", 4)[1].expand((-1, 4))


@pytest.mark.parametrize(("given", "found"), [(4, (4,)), ((2, -1), (2, 4)), ([np.int64(3), 4], (3, 4))])
def test_expand_takes_what_tensors_take(given, found):
    assert make("paper", 4)[1].expand(given).sample().shape[:-1] == found


def test_inside_distributions_of_torch():
    flow, distribution = make("paper", 4)
    x = distribution.sample((3,))
    log_prob = distribution.log_prob(x)
    torch.testing.assert_close(Independent(distribution, 1).log_prob(x), log_prob.sum(-1))
    doubled = TransformedDistribution(distribution, [AffineTransform(0.0, 2.0, event_dim=1)])
    torch.testing.assert_close(doubled.log_prob(2 * x), log_prob - flow.features * np.log(2))
    assert doubled.expand((5, 4)).rsample((2,)).shape == (2, 5, 4, flow.features)


@pytest.mark.parametrize(
    "shape", [3, [3], (3,), torch.Size([3]), np.int64(3), (np.int32(3),), np.array([3]), [2, np.int8(5)]]
)
def test_sample_shapes(shape):
    flow, distribution = make("paper", 4)
    expected = (2, 5) if np.size(shape) == 2 else (3,)
    for x in (
        distribution.sample(shape),
        distribution.rsample(shape),
        distribution.rsample_and_log_prob(shape)[0],
        distribution.sample_denoised(0.1, shape),
    ):
        assert x.shape == (*expected, 4, flow.features)


@pytest.mark.parametrize("shape", [-1, 2.0, "ab", [2.5], None, [True]])
def test_what_is_no_sample_shape_is_refused(shape):
    with pytest.raises(ValueError, match="sample_shape: expected ints >= 0, got"):
        make("paper", 4)[1].sample(shape)


def test_a_repr_says_what_it_is():
    assert repr(make("paper", 2, 3)[1]) == "FlowDistribution(CouplingFlow, batch_shape=(2, 3), event_shape=(6,))"


@pytest.mark.parametrize("name", ["paper", "tanh_bounds", "causal_published"])
def test_the_deterministic_sample_is_zero_decoded(name):
    flow, distribution = make(name, 4)
    zero = torch.zeros(4, *flow.event_shape, dtype=torch.float64)
    torch.testing.assert_close(distribution.deterministic_sample, flow.to_data(zero, distribution.projected)[0])
    assert distribution.deterministic_sample.requires_grad == flow.reparameterized


def test_frozen_flows_have_no_reparameterised_samples():
    flow, _ = make("paper")
    distribution = flow.freeze().condition(flows.make_inputs(flow, 4)[1])
    assert not distribution.has_rsample
    assert distribution.deterministic_sample.shape == (4, flow.features)


@pytest.mark.parametrize(
    ("ask", "instead"),
    [
        (lambda d: d.mode, "deterministic_sample"),
        (lambda d: d.mean, "sample"),
        (lambda d: d.variance, "sample"),
        (lambda d: d.stddev, "sample"),
        (lambda d: d.cdf(torch.zeros(6)), "sample"),
        (lambda d: d.icdf(torch.zeros(6)), "sample"),
        (lambda d: d.enumerate_support(), "sample"),
        (lambda d: kl_divergence(d, d), "p.log_prob"),
        (lambda d: kl_divergence(d, Independent(Normal(torch.zeros(6), 1.0), 1)), "p.log_prob"),
        (lambda d: kl_divergence(Normal(0.0, 1.0), d), "p.log_prob"),
    ],
)
def test_what_has_no_closed_form_says_what_to_take_instead(ask, instead):
    with pytest.raises(NotImplementedError, match=f"a flow has none in closed form; take .*{instead}"):
        ask(make("paper")[1])


def test_the_support_has_the_events_dimensions():
    assert make("paper")[1].support.event_dim == 1
    assert make("causal_published")[1].support.event_dim == 2
    boxed = make("tanh_bounds", 4)[1]
    assert isinstance(boxed.support.base_constraint, type(constraints.interval(-1, 1)))
    assert boxed.support.check(boxed.sample((100,), temperature=20.0)).all()
