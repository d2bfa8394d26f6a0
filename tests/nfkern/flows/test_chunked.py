"""Calls over more contexts than are projected at a time: the same results, with never more of them in memory."""

import pytest
import torch
from support import flows
from torch import nn

from nfkern.flows import chunked

NAMES = ["paper", "inverted", "tanh_bounds", "causal_published", "causal_prefix"]


@pytest.fixture
def seen(monkeypatch):
    """Number of contexts of each projection."""
    found, project = [], {}
    for maps in (flows.nfkern.CouplingFlow, flows.nfkern.CausalFlow):
        project[maps] = maps._project_rows

        def counting(self, context, original=project[maps]):
            found.append(0 if context is None else context.shape[0])
            return original(self, context)

        monkeypatch.setattr(maps, "_project_rows", counting)
    return found


def at_a_time(monkeypatch, flow, contexts):
    monkeypatch.setattr(chunked, "TERM_BYTES", contexts * flow.input_bias.nbytes)


def results(flow, x, context):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
    found = [flow(x, context), flow.score(x, context), *flow.to_latent(x, context), *flow.to_data(noise, context)]
    return found if flow.bounds else [*found, flow.sample_denoised(0.1, (), context, noise=noise)]


@pytest.mark.parametrize("batch", [(7,), (2, 4)])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_results_are_the_same(name, batch, seen, monkeypatch):
    flow = flows.make(name).eval()
    x, context = flows.make_inputs(flow, *batch)
    expected = results(flow, x, context)
    seen.clear()
    at_a_time(monkeypatch, flow, 3)
    for actual, wanted in zip(results(flow, x, context), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-12, atol=1e-12)
    assert max(seen) == 3


@pytest.mark.parametrize(
    ("events", "contexts"), [((3, 5), (1, 5)), ((3, 5), (3, 1)), ((5,), (4, 5)), ((2, 1, 3), (5, 1))]
)
@torch.no_grad()
def test_contexts_broadcast(events, contexts, seen, monkeypatch):
    flow = flows.make("paper").eval()
    x, context = flows.make_inputs(flow, *events)[0], flows.make_inputs(flow, *contexts)[1]
    expected = flow(x, context)
    seen.clear()
    at_a_time(monkeypatch, flow, 2)
    torch.testing.assert_close(flow(x, context), expected, rtol=1e-12, atol=1e-12)
    assert max(seen) == 2


def test_what_is_differentiated_is_projected_at_once(seen, monkeypatch):
    flow = flows.make("paper")
    x, context = flows.make_inputs(flow, 7)
    at_a_time(monkeypatch, flow, 3)
    flow(x, context).sum().backward()
    assert seen == [7]
    assert flow.context_weight.grad.abs().max() > 0


def test_an_encoder_sees_as_many_at_a_time(monkeypatch):
    widths = []

    class Encoder(nn.Module):
        def forward(self, observations):
            widths.append(observations.shape[0])
            return observations[:, :5]

    frozen = flows.make("paper").freeze(encoder=Encoder())
    x, observations = torch.randn(7, 6).double(), torch.randn(7, 9).double()
    expected = frozen(x, observations)
    widths.clear()
    at_a_time(monkeypatch, frozen, 3)
    torch.testing.assert_close(frozen(x, observations), expected, rtol=1e-12, atol=1e-12)
    assert widths == [3, 3, 1]


@torch.no_grad()
def test_bad_input_is_named_as_ever(monkeypatch):
    flow = flows.make("paper").eval()
    x, context = flows.make_inputs(flow, 7)
    at_a_time(monkeypatch, flow, 3)
    with pytest.raises(ValueError, match=r"context: batch shape \(7,\) does not broadcast against batch shape \(6,\)"):
        flow(x[:6], context)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 6\), got \(7, 5\)"):
        flow(x[:, :5], context)
    with pytest.raises(TypeError, match="context: expected dtype torch.float64"):
        flow(x, context.float())
    x[5, 2] = float("nan")
    assert flow(x, context).isnan().nonzero().tolist() == [[5]]
