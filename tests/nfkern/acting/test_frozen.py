"""A frozen flow is its source at one moment: the same numbers within rounding."""

import copy

import pytest
import torch
from support import flows
from torch import nn

import nfkern
from nfkern.kernels import coupling

every_flow = pytest.mark.parametrize("name", list(flows.OPTIONS))
BOUNDED = [name for name, options in flows.OPTIONS.items() if "bounds" in options]


def calls(flow, x, context, noise):
    """Every result of every call on (rows, D), with noise given."""
    shape = () if context is not None else (len(x),)
    (z, latent_log_det), (data, data_log_det) = flow.to_latent(x, context), flow.to_data(noise, context)
    found = {
        "log_prob": flow(x, context),
        "z": z,
        "latent_log_det": latent_log_det,
        "x": data,
        "data_log_det": data_log_det,
        "score": flow.score(x, context),
        "sample": flow.sample(shape, context, noise=noise),
        "conditioned": flow.condition(context).log_prob(x),
    }
    if flow.bounds is None:
        found["denoised"] = flow.sample_denoised(0.1, shape, context, noise=noise)
    return found


def inputs_of(flow, rows=64):
    x, context = flows.make_inputs(flow, rows)
    return x, context, torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)


def doubled(tensors):
    return [None if tensor is None else tensor.double() for tensor in tensors]


@every_flow
def test_double_precision_is_the_source(name):
    flow = flows.make_flow(name).eval()
    inputs = inputs_of(flow)
    frozen = flow.freeze()
    assert frozen.dtype == torch.float64
    expected, actual = calls(flow, *inputs), calls(frozen, *inputs)
    for key, wanted in expected.items():
        torch.testing.assert_close(actual[key], wanted, rtol=1e-11 if key == "score" else 1e-12, atol=1e-12)


@every_flow
@torch.no_grad()
def test_single_precision_is_as_near_as_the_source(name):
    flow = flows.make_flow(name, torch.float32).eval()
    inputs = inputs_of(flow)
    exact = calls(copy.deepcopy(flow).double(), *doubled(inputs))
    single, frozen = calls(flow, *inputs), calls(flow.freeze(), *inputs)
    for key, truth in exact.items():
        bound = 2 * (single[key] - truth).abs().max() + 4 * torch.finfo(torch.float32).eps * truth.abs().max()
        assert (frozen[key] - truth).abs().max() <= bound, key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_flow
@torch.no_grad()
def test_sixteen_bits_are_as_near_as_the_unfolded_flow_in_sixteen_bits(name, dtype, monkeypatch):
    flow = flows.make_flow(name, torch.float32).eval()
    inputs = inputs_of(flow, 200)
    exact = calls(copy.deepcopy(flow).double(), *doubled(inputs))
    frozen = flow.freeze(dtype)
    assert frozen.dtype == frozen.hidden_weight.dtype == dtype
    assert {b.dtype for n, b in frozen.named_buffers() if n != "hidden_weight"} == {torch.float32}
    actual = calls(frozen, *inputs)
    monkeypatch.setattr(nfkern.CouplingFlow, "_compute_dtype", dtype)
    unfolded = calls(flow, *inputs)
    for key, truth in exact.items():
        assert actual[key].dtype == torch.float32
        errors, unfolded_errors, scale = (actual[key] - truth).abs(), (unfolded[key] - truth).abs(), truth.abs().max()
        assert errors.median() <= 2 * unfolded_errors.median() + 4 * torch.finfo(torch.float32).eps * scale, key
        # The score jumps where a LeakyReLU's input changes sign, which rounding decides: its worst row says nothing.
        if key != "score":
            assert errors.max() <= 2 * unfolded_errors.max() + 4 * torch.finfo(dtype).eps * scale, key
    # The project's bound for bf16 on random weights (relative in x, nats in log p).
    if name not in BOUNDED:
        assert (actual["x"] - exact["x"]).abs().max() <= 1e-2 * exact["x"].abs().max()
    assert (actual["log_prob"] - exact["log_prob"]).abs().max() <= 2e-1
    # And the hidden products do run in 16 bits.
    assert (actual["x"] - exact["x"]).abs().max() > 1e-5


def test_dtypes_follow_what_is_asked():
    double, single = flows.make_flow(), flows.make_flow(dtype=torch.float32)
    wanted = {
        (double, None): (torch.float64, torch.float64),
        (double, torch.float32): (torch.float32, torch.float32),
        (double, torch.bfloat16): (torch.bfloat16, torch.float32),
        (single, None): (torch.float32, torch.float32),
        (single, torch.float64): (torch.float64, torch.float64),
        (single, torch.float16): (torch.float16, torch.float32),
    }
    for (flow, dtype), (hidden, rest) in wanted.items():
        frozen = flow.freeze(dtype)
        assert (frozen.hidden_weight.dtype, frozen.input_bias.dtype, frozen.mixing.dtype) == (hidden, rest, rest)


@every_flow
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_samples_of_every_shape_and_option(name, batch):
    flow = flows.make_flow(name).eval()
    frozen, context = flow.freeze(), flows.make_inputs(flow, *batch)[1]
    for options in ({}, {"temperature": 0.5}, {"deterministic": True}):
        seeded = [options | {"generator": torch.Generator().manual_seed(5)} for _ in range(4)]
        expected = flow.sample((4,), context, **seeded[0])
        torch.testing.assert_close(frozen.sample((4,), context, **seeded[1]), expected, rtol=1e-11, atol=1e-11)
        policy = frozen.condition(context)
        torch.testing.assert_close(policy.sample((4,), **seeded[2]), expected, rtol=1e-11, atol=1e-11)
        if flow.bounds is None:
            denoised = frozen.sample_denoised(0.1, (4,), context, **seeded[3])
            expected = flow.sample_denoised(0.1, (4,), context, noise=flow.to_latent(expected, context)[0])
            torch.testing.assert_close(denoised, expected, rtol=1e-7, atol=1e-7)


def test_contexts_broadcast():
    flow = flows.make_flow().eval()
    x = torch.randn(4, 3, flow.features, dtype=torch.float64)
    context = torch.randn(4, 1, flow.context_features, dtype=torch.float64)
    torch.testing.assert_close(flow.freeze().log_prob(x, context), flow.log_prob(x, context), rtol=1e-12, atol=1e-12)


def test_the_marginal_of_a_flow_with_context_dropout():
    flow = flows.make_flow("context_dropout")
    x, context = flows.make_inputs(flow, 50)
    frozen = flow.train().freeze().train()
    flow.eval()
    torch.testing.assert_close(frozen(x), flow(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(frozen(x, context), flow(x, context), rtol=1e-12, atol=1e-12)


def encoders():
    return {
        "encoder": nfkern.Encoder(7, 5, width=16, layers=3),
        "one_layer": nfkern.Encoder(7, 5, width=16, layers=1),
        "other": nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 5)),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(encoders()))
@torch.no_grad()
def test_with_an_encoder_calls_take_observations(name, dtype):
    flow, encoder = flows.make_flow(dtype=torch.float32).eval(), encoders()[name]
    observations, x = torch.randn(3, 4, 7), torch.randn(3, 4, 6)
    frozen, plain = flow.freeze(dtype, encoder), flow.freeze(dtype)
    context = encoder(observations)
    lowered = dtype == torch.bfloat16 and name == "encoder"
    close = {"rtol": 0, "atol": 0.2} if lowered else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(frozen(x, observations), plain(x, context), **close)
    noise = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(
        frozen.sample_denoised(0.1, (2,), observations, noise=noise),
        plain.sample_denoised(0.1, (2,), context, noise=noise),
        **close,
    )
    assert frozen.condition(observations).sample((2,)).shape == (2, 3, 4, 6)
    dtypes = {p.dtype for p in frozen.encoder.parameters()}
    assert dtypes == ({torch.float32, torch.bfloat16} if lowered else {torch.float32})
    # The copy alone was changed.
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in encoder.parameters())


def test_autocast_has_no_say_but_may_bring_its_inputs():
    flow = flows.make_flow(dtype=torch.float32)
    frozen, (x, context) = flow.freeze(), flows.make_inputs(flow, 4)
    context = context.bfloat16()
    expected = frozen(x, context.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(frozen(x, context), expected)


def test_the_folded_weights_are_the_ops_own():
    flow = flows.make_flow()
    frozen = flow.freeze()
    for name, value in coupling.fold(flow._parameters_tuple)._asdict().items():
        found = getattr(frozen, name)
        assert value is found is None or torch.equal(value, found), name
