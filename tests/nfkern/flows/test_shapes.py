"""The shape law over any batch, any sizes and any strides, against the naive oracle row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import flows, naive

sizes = st.tuples(
    st.integers(2, 64), st.integers(0, 257), st.integers(1, 3), st.tuples(st.integers(1, 24), st.integers(1, 24))
)
batches = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def build(size, **options):
    features, context_features, blocks, hidden = size
    return flows.make_flow(
        features=features, context_features=context_features, blocks=blocks, hidden=hidden, **options
    ).eval()


def close(actual, expected):
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9 * scale)


@given(size=sizes, batch=batches)
def test_any_size_and_batch(size, batch):
    flow = build(size)
    x, context = flows.make_inputs(flow, *batch)
    z, log_det = flow.to_latent(x, context)
    assert z.shape == (*batch, flow.features)
    assert log_det.shape == flow(x, context).shape == batch
    assert flow.score(x, context).shape == x.shape
    rows = None if context is None else context.reshape(x[..., 0].numel(), flow.context_features)
    expected, expected_log_det = naive.to_latent(flow, x.reshape(x[..., 0].numel(), flow.features), rows)
    close(z, expected.reshape(x.shape))
    close(log_det, expected_log_det.reshape(batch))
    close(flow.to_data(z, context)[0], x)


@given(size=sizes, batch=batches, sample_shape=batches)
def test_samples_have_sample_shape_then_batch_shape(size, batch, sample_shape):
    flow = build(size)
    context = flows.make_inputs(flow, *batch)[1]
    batch = batch if context is not None else ()
    x, log_prob = flow.rsample_and_log_prob(sample_shape, context)
    assert x.shape == (*sample_shape, *batch, flow.features)
    assert log_prob.shape == (*sample_shape, *batch)
    close(flow.log_prob(x, context), log_prob)
    assert flow.sample_denoised(0.1, sample_shape, context).shape == x.shape


@given(
    shapes=st.sampled_from(
        [
            ((4, 3), (4, 1)),
            ((4, 3), (1, 3)),
            ((4, 3), (3,)),
            ((4, 3), ()),
            ((), (4, 3)),
            ((3,), (4, 1)),
            ((2, 4, 3), (2, 1, 3)),
            ((2, 4, 3), (1, 4, 1)),
            ((2, 1, 3), (4, 1)),
            ((0, 3), (1, 3)),
            ((1, 3), (0, 1)),
        ]
    )
)
def test_contexts_broadcast_against_events(shapes):
    event_batch, context_batch = shapes
    flow = flows.make_flow().eval()
    x = torch.randn(*event_batch, flow.features, dtype=torch.float64)
    context = torch.randn(*context_batch, flow.context_features, dtype=torch.float64)
    batch = torch.broadcast_shapes(event_batch, context_batch)
    expanded_x, expanded = x.expand(*batch, -1), context.expand(*batch, -1)
    expected = flow.log_prob(expanded_x.clone(), expanded.clone())
    assert expected.shape == batch
    close(flow.log_prob(x, context), expected)
    close(flow.condition(context).log_prob(x), expected)


def test_gradients_flow_into_a_shared_context():
    flow = flows.make_flow().eval()
    x = torch.randn(4, 3, flow.features, dtype=torch.float64)
    context = torch.randn(3, flow.context_features, dtype=torch.float64, requires_grad=True)
    (actual,) = torch.autograd.grad(flow(x, context).sum(), context)
    (expected,) = torch.autograd.grad(flow(x, context.expand(4, 3, -1).reshape(4, 3, -1)).sum(), context)
    torch.testing.assert_close(actual, expected)


VIEWS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "strided": lambda t: torch.stack([t, t + 1], -1)[..., 0],
    "expanded": lambda t: t[:1].expand_as(t),
    "offset": lambda t: torch.cat([t, t])[len(t) :],
}


@pytest.mark.parametrize("kind", list(VIEWS))
@given(size=sizes, batch=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple))
def test_strides_do_not_matter(kind, size, batch):
    flow = build(size)
    x, context = flows.make_inputs(flow, *batch)
    views = [None if t is None else VIEWS[kind](t) for t in (x, context)]
    copies = [None if t is None else t.clone(memory_format=torch.contiguous_format) for t in views]
    for call in (flow.log_prob, flow.score, lambda x, context: flow.to_data(x, context)[0]):
        close(call(*views), call(*copies))


def test_the_distribution_is_the_flow_under_one_context():
    flow = flows.make_flow().eval()
    context = flows.make_inputs(flow, 4)[1]
    distribution = flow.condition(context)
    assert distribution.batch_shape == (4,)
    assert distribution.event_shape == (flow.features,)
    x = distribution.sample((10,))
    assert x.shape == (10, 4, flow.features)
    assert not x.requires_grad
    assert distribution.rsample().requires_grad
    close(distribution.log_prob(x), flow.log_prob(x, context))
    close(distribution.score(x), flow.score(x, context))
    x, log_prob = distribution.rsample_and_log_prob((2,))
    close(distribution.log_prob(x), log_prob)
    assert distribution.sample_denoised(0.1, (2,)).shape == x.shape
    assert "FlowDistribution" in repr(distribution)
    boxed = flows.make_flow("tanh_bounds").condition(context)
    assert boxed.support.check(boxed.sample((100,))).all()
