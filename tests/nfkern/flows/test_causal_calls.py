"""Calls of the causal flow: shapes, types, compilers, what is refused, and what an interrupted one leaves behind."""

import subprocess
import sys

import pytest
import torch
from support import flows, naive
from support.selected import exhaustive

import nfkern
from nfkern.kernels import use_reference
from nfkern.kernels.causal import sampling

METHODS = ("cached", "jacobi", "auto")


def inputs_of(flow, rows=4):
    return flows.make_inputs(flow, rows)


def noise_for(flow):
    shape = (4, flow.tokens, flow.features)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_sampling_is_not_differentiable():
    flow = flows.make_causal()
    x, _ = flow.to_data(noise_for(flow), inputs_of(flow)[1])
    with pytest.raises(RuntimeError, match="sampling from a causal flow is not differentiable"):
        x.sum().backward()


def test_an_interrupted_call_leaves_nothing_behind(monkeypatch):
    flow, calls = flows.make_causal(), []
    noise, context = noise_for(flow), inputs_of(flow)[1]
    state, before = {**flow.__dict__}, noise.clone()
    whole = sampling.layer

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return whole(*arguments)

    with use_reference():
        expected = flow.to_data(noise, context)[0]
        monkeypatch.setattr(sampling, "layer", failing)
        with pytest.raises(KeyboardInterrupt):
            flow.to_data(noise, context)
        monkeypatch.setattr(sampling, "layer", whole)
        assert flow.__dict__ == state
        assert torch.equal(noise, before)
        assert torch.equal(flow.to_data(noise, context)[0], expected)


# In a process of its own, whose highest point these calls alone decide.
SAMPLING_ALONE = """
import resource
import torch
import nfkern

flow = nfkern.CausalFlow(4, 2, 3, blocks=2, layers=1, width=8, context_dropout=0.1)
flows, contexts = (flow, flow.freeze(torch.bfloat16)), torch.randn(5, 3)

@torch.no_grad()
def highest_after(calls):
    for i in range(calls):
        flows[i % 2].sample((), contexts[: 1 + i % 5], guidance=float(i % 3 == 0))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

before = highest_after(1000)
print(highest_after(10_000) - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow():
    done = subprocess.run([sys.executable, "-c", SAMPLING_ALONE], capture_output=True, text=True, check=True)
    # 512 KiB: 50 bytes a call, less than any tensor.
    assert int(done.stdout) < 512


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 1}, "tokens: expected an int >= 2, got 1"),
        ({"tokens": 0, "context_mode": "prefix"}, "tokens: expected an int >= 1, got 0"),
        ({"features": 0}, "features: expected an int >= 1, got 0"),
        ({"width": 2.5}, "width: expected an int >= 1, got 2.5"),
        ({"heads": 3}, "heads: expected a divisor of the width 16, got 3"),
        ({"context_mode": "mul"}, "context_mode: expected 'add' or 'prefix', got 'mul'"),
        ({"norm_eps": 0.0}, "norm_eps: expected a number > 0, got 0.0"),
        ({"scale_bound": -1.0}, "scale_bound: expected None or a number > 0, got -1.0"),
        ({"context_features": -1}, "context_features: expected an int >= 0, got -1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        nfkern.CausalFlow(**({"tokens": 5, "features": 3, "width": 16} | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, x, c: f(x[:, :, :2], c), r"x: expected shape \(..., 2 to 5 tokens, 3\), got \(4, 5, 2\)"),
        (lambda f, x, c: f(x.repeat(1, 2, 1), c), r"x: expected shape \(..., 2 to 5 tokens, 3\), got \(4, 10, 3\)"),
        (lambda f, x, c: f(x[0, 0], c), r"x: expected shape \(..., 2 to 5 tokens, 3\), got \(3,\)"),
        (lambda f, x, c: f(x, c[:, :2]), r"context: expected shape \(..., 4\), got \(4, 2\)"),
        (lambda f, x, c: f.to_data(x, c, method="fast"), "method: expected one of auto, cached, jacobi, got 'fast'"),
        (lambda f, x, c: f.to_data(x, c, tolerance=-1.0), "tolerance: expected a finite number >= 0, got -1.0"),
        (lambda f, x, c: f.to_data(x, c, guidance=-1.0), "guidance: expected a finite number >= 0, got -1.0"),
        (lambda f, x, c: f.to_data(x, c, guidance=1.0), "guidance: expected 0 for a flow with context_dropout=0"),
        (lambda f, x, c: f.sample((), c, tokens=9), "tokens: expected an int from 2 to 5, got 9"),
        (lambda f, x, c: f.sample((), c, noise=x[:2]), r"noise: expected shape \(4, 5, 3\), got \(2, 5, 3\)"),
    ],
)
def test_bad_calls_are_named(call, message):
    flow = flows.make_causal()
    with pytest.raises(ValueError, match=message):
        call(flow, *inputs_of(flow))


def test_a_saved_flow_comes_back(tmp_path):
    flow = flows.make_causal("prefix", torch.float32)
    flow.save_pretrained(tmp_path / "flow")
    again = nfkern.CausalFlow.from_pretrained(tmp_path / "flow")
    assert again.config == flow.config
    x, context = inputs_of(flow)
    assert torch.equal(again(x, context), flow(x, context))


def test_an_empty_batch():
    flow = flows.make_causal()
    for method in METHODS:
        x, log_det = flow.to_data(torch.zeros(0, 5, 3).double(), torch.zeros(0, 4).double(), method=method)
        assert (x.shape, log_det.shape) == ((0, 5, 3), (0,))
    assert flow(x, torch.zeros(0, 4).double()).shape == (0,)


def test_jacobi_judges_each_row_on_its_own():
    flow = flows.make_causal(dtype=torch.float32)
    noise, context = noise_for(flow).float(), inputs_of(flow)[1]
    alone, _ = flow.to_data(noise[:1], context[:1], method="jacobi")
    noise[1:] *= 1e6
    beside, _ = flow.to_data(noise, context, method="jacobi")
    torch.testing.assert_close(beside[:1], alone, rtol=1e-5, atol=1e-5)


def test_batch_shapes_broadcast():
    flow = flows.make_causal()
    x, context = torch.randn(4, 3, 5, 3).double(), torch.randn(4, 1, 4).double()
    expected = naive.log_prob(flow, x.flatten(0, 1), context.expand(4, 3, 4).flatten(0, 1))
    torch.testing.assert_close(flow(x, context), expected.view(4, 3))
    distribution = flow.condition(context[:, 0])
    assert (distribution.batch_shape, distribution.event_shape, distribution.has_rsample) == ((4,), (5, 3), False)
    torch.testing.assert_close(distribution.log_prob(x.transpose(0, 1)), expected.view(4, 3).T)


def test_strides_make_no_difference():
    flow = flows.make_causal()
    x, context = torch.randn(5, 4, 3).double().transpose(0, 1), inputs_of(flow)[1]
    for call in (flow, flow.score, lambda *given: flow.to_data(*given)[0]):
        torch.testing.assert_close(call(x, context), call(x.contiguous(), context))


def test_autocast_lowers_the_layers_products_alone():
    flow = flows.make_causal(dtype=torch.float32)
    x, context = inputs_of(flow, 50)
    expected = flow(x, context)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = flow(x, context)
    assert lowered.dtype == torch.float32
    assert not torch.equal(lowered, expected)
    assert (lowered - expected).abs().max() <= 24 * torch.finfo(torch.bfloat16).eps * expected.abs().max()
    lowered.sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prefix", exhaustive("published", part="sweeps")])
def test_compiles_as_one_graph(name):
    flow = flows.make_causal(name, torch.float32)
    x, context = inputs_of(flow)
    without_gradients = torch.no_grad()(flow.to_data)
    calls = {
        "log_prob": lambda: flow(x, context),
        "score": lambda: flow.score(x, context),
        "to_data": lambda: without_gradients(x, context)[0],
        "shorter": lambda: without_gradients(x[:, :3], context)[0],
    }
    for call in calls.values():
        torch.testing.assert_close(torch.compile(call, fullgraph=True)(), call())
    torch.compile(flow, fullgraph=True)(x, context).sum().backward()
    assert all(parameter.grad is not None for parameter in flow.parameters())


@pytest.mark.slow
def test_sampling_compiles_for_any_batch():
    flow = flows.make_causal(dtype=torch.float32)
    compiled = torch.compile(flow.sample, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (8, 5):
        assert compiled((3,), torch.zeros(rows, 4)).shape == (3, rows, 5, 3)


def test_vmap_over_flows():
    stacked = [flows.make_causal(seed=seed) for seed in range(2)]
    x, context = inputs_of(stacked[0])
    weights = {
        name: torch.stack([dict(flow.named_parameters())[name] for flow in stacked])
        for name, _ in stacked[0].named_parameters()
    }
    found = torch.vmap(lambda each: torch.func.functional_call(stacked[0], each, (x, context)))(weights)
    torch.testing.assert_close(found, torch.stack([flow(x, context) for flow in stacked]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, x, c: f.sample((), c, noise=[0.0]), TypeError, "noise: expected a torch.Tensor, got list"),
        (lambda f, x, c: f([0.0], c), TypeError, "x: expected a torch.Tensor, got list"),
        (lambda f, x, c: f.to_data(x, c, tolerance=0.1), ValueError, "tolerance: expected None for method='auto'"),
        (lambda f, x, c: f(x.float(), c), TypeError, "x: expected dtype torch.float64 as the parameters"),
    ],
)
def test_bad_types_are_named(call, error, message):
    flow = flows.make_causal()
    with pytest.raises(error, match=message):
        call(flow, *inputs_of(flow))
