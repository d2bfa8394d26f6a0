"""A causal flow frozen for acting: the same calls, apart from its source, in 16 bits if wished."""

import copy

import numpy as np
import pytest
import torch
from support import flows

import nfkern

every_flow = pytest.mark.parametrize("name", list(flows.CAUSAL_OPTIONS))


@every_flow
def test_calls_equal_the_source_s(name):
    flow = flows.make_causal(name).eval()
    frozen = flow.freeze()
    x, context = flows.make_inputs(flow, 4)
    noise, shape = torch.randn_like(x), () if context is not None else (4,)
    pairs = [
        (frozen(x, context), flow(x, context)),
        (frozen.score(x, context), flow.score(x, context)),
        (frozen.sample(shape, context, noise=noise), flow.sample(shape, context, noise=noise)),
    ]
    if flow.bounds is None:
        options = (0.1, shape, context)
        pairs.append((frozen.sample_denoised(*options, noise=noise), flow.sample_denoised(*options, noise=noise)))
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_keep_everything_but_the_layers_weights(dtype):
    flow = flows.make_causal(dtype=torch.float32).eval()
    frozen = flow.freeze(dtype)
    assert {name for name, tensor in frozen.named_buffers() if tensor.dtype == dtype} == {
        "qkv_weight",
        "projection_weight",
        "up_weight",
        "down_weight",
    }
    x, context = flows.make_inputs(flow, 50)
    expected, actual = flow(x, context), frozen(x, context)
    assert actual.dtype == torch.float32
    assert not torch.equal(actual, expected)
    # Three blocks of eight products, each off by half a unit of rounding.
    assert (actual - expected).abs().max() <= 24 * torch.finfo(dtype).eps * expected.abs().max()


def test_nothing_is_shared_with_the_source():
    flow = flows.make_causal()
    x, context = flows.make_inputs(flow, 4)
    frozen = flow.freeze()
    before, twin = frozen(x, context), copy.deepcopy(frozen)
    for parameter in flow.parameters():
        parameter.data.mul_(1.5)
    assert torch.equal(frozen(x, context), before)
    frozen.output_weight.zero_()
    assert torch.equal(twin(x, context), before)
    assert not list(frozen.parameters())


def test_guidance_and_shorter_sequences():
    flow = flows.make_causal("context_dropout").eval()
    frozen, context = flow.freeze(), flows.make_inputs(flow, 4)[1]
    noise = torch.randn(4, 3, flow.features, dtype=torch.float64)
    options = {"noise": noise, "guidance": 1.5, "annealed": True}
    torch.testing.assert_close(frozen.sample((), context, **options), flow.sample((), context, **options))


def test_actions_in_numpy_by_way_of_an_encoder():
    flow = flows.make_causal(dtype=torch.float32)
    encoder = nfkern.Encoder(7, 4, width=8, layers=2)
    frozen, observations = flow.freeze(encoder=encoder), np.random.default_rng(0).normal(size=(3, 7))
    actions = frozen.act(observations, 0.1, generator=torch.Generator().manual_seed(0))
    assert (actions.shape, actions.dtype) == ((3, 5, 3), np.float32)
    noise = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0))
    context = encoder(torch.from_numpy(observations).float())
    np.testing.assert_allclose(actions, flow.sample_denoised(0.1, (), context, noise=noise), rtol=1e-4, atol=1e-5)


def test_what_is_refused():
    flow = flows.make_causal()
    with pytest.raises(TypeError, match="flow: expected a CausalFlow, got FrozenCausalFlow"):
        nfkern.FrozenCausalFlow(flow.freeze())
    with pytest.raises(TypeError, match="flow: expected a CouplingFlow, got CausalFlow"):
        nfkern.FrozenFlow(flow)
    with pytest.raises(ValueError, match="dtype: expected one of"):
        flow.freeze(torch.int8)
    with torch.no_grad():
        flow.up_weight[0, 0, 0, 0] = 1e39
    with pytest.raises(ValueError, match="up_weight: not finite when frozen in torch.bfloat16"):
        flow.freeze(torch.bfloat16)
