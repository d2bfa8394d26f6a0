"""NumPy's numbers are numbers, wherever an int or a float is meant; what is none is refused."""

import json

import numpy as np
import pytest
import torch
from support import flows

import nfkern
from nfkern.arguments import number, whole
from nfkern.flows.tabulated import tabulated_log_prob_2d

KINDS = [(np.int64, np.float64), (np.int32, np.float32), (np.uint8, np.float16)]


@pytest.mark.parametrize(("i", "f"), KINDS)
def test_constructors(i, f, tmp_path):
    options = {"norm_eps": f(2**-10), "scale_bound": f(1.5), "context_dropout": f(0.5)}
    sizes = {"layers": i(1), "width": i(8), "heads": i(2), "expansion": i(2)}
    made = [
        nfkern.CouplingFlow(i(4), i(3), blocks=i(2), hidden=np.array([8, 9], i), **options),
        nfkern.CausalFlow(i(4), i(3), i(2), blocks=i(2), **sizes, **options),
    ]
    for flow in made:
        assert json.loads(json.dumps(flow.config)) == flow.config
        flow.save_pretrained(tmp_path / type(flow).__name__)
        restored = type(flow).from_pretrained(tmp_path / type(flow).__name__)
        assert restored.config == flow.config
        assert {type(value) for value in flow.config.values()} <= {int, float, str, list, bool, type(None)}


@pytest.mark.parametrize(("i", "f"), KINDS)
def test_acting(i, f, tmp_path):
    encoder = nfkern.Encoder(i(5), i(6), width=i(8), layers=i(2))
    encoder.save_pretrained(tmp_path / "encoder")
    nfkern.Normalizer(i(5)).save_pretrained(tmp_path / "normalizer")
    frozen = nfkern.CouplingFlow(4, 6, blocks=2, hidden=(8, 8)).freeze(torch.float32, encoder).warmup([i(1), i(4)])
    assert frozen.act(np.zeros(5, np.float32), f(0.125), temperature=f(0.5)).shape == (4,)
    with pytest.raises(ValueError, match="batch_sizes: expected an int >= 1, got"):
        frozen.warmup([i(0)])


@pytest.mark.parametrize(("i", "f"), KINDS)
def test_calls(i, f):
    flow, causal = flows.make_flow("paper", torch.float32), flows.make_causal("context_dropout", torch.float32)
    context, words = flows.make_inputs(flow, 2)[1], flows.make_inputs(causal, 2)[1]
    assert flow.sample((i(3),), context, temperature=f(0.5)).shape == (3, 2, 6)
    assert flow.sample_denoised(f(0.25), (i(3),), context).shape == (3, 2, 6)
    assert flow.parameter_groups(f(0.25))[0]["weight_decay"] == 0.25
    options = {"method": "jacobi", "tolerance": f(0.25), "guidance": f(0.5)}
    assert causal.sample((i(3),), words, tokens=i(4), **options).shape == (3, 2, 4, 3)
    plane = flows.make_flow("two_features", torch.float32)
    x, points = flows.make_inputs(plane, 5)
    assert tabulated_log_prob_2d(plane, x, points[0], tolerance=f(0.25)).shape == (5,)


@pytest.mark.parametrize("value", [True, 2.0, "2", None, np.float64(2), np.True_, -1, 2j, [2]])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="n: expected an int >= 0, got"):
        whole("n", value)


@pytest.mark.parametrize("value", [True, "2", None, float("nan"), float("inf"), -1.0, 1j, np.True_, [2.0]])
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match="n: expected a finite number >= 0, got"):
        number("n", value)


@pytest.mark.parametrize(
    "arguments", [{"blocks": True}, {"norm_eps": float("inf")}, {"hidden": "88"}, {"norm_eps": "1"}]
)
def test_constructors_refuse_what_is_none(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: expected"):
        nfkern.CouplingFlow(4, **arguments)


def test_a_causal_flow_of_one_number_is_a_gaussian():
    flow = nfkern.CausalFlow(1, 1, 3, context_mode="prefix", width=8).double()
    with torch.no_grad():
        flow.output_weight.normal_()
    x, context = torch.randn(5, 1, 1, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    mean, _ = flow.to_data(torch.zeros_like(x), context)
    scale = flow.to_data(torch.ones_like(x), context)[0] - mean
    torch.testing.assert_close(
        flow.log_prob(x, context), torch.distributions.Normal(mean, scale.abs()).log_prob(x).sum((1, 2))
    )


def test_decay_of_an_encoder_reaches_its_linear_weights_alone():
    encoder = nfkern.Encoder(3, 4, width=8, layers=2)
    decayed, others = encoder.parameter_groups(0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    linear = [layer for layer in encoder if isinstance(layer, torch.nn.Linear)]
    assert {id(p) for p in decayed["params"]} == {id(layer.weight) for layer in linear}
    assert len(decayed["params"]) + len(others["params"]) == len(list(encoder.parameters()))


@pytest.mark.parametrize("name", ["paper", "permuted", "causal_prefix", "unconditional"])
def test_decay_reaches_weights_of_products_alone(name):
    flow = flows.make(name)
    decayed, others = flow.parameter_groups(0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    both = [*decayed["params"], *others["params"]]
    assert {id(p) for p in both} == {id(p) for p in flow.parameters()}
    assert len(both) == len(list(flow.parameters()))
    names = {id(parameter): key for key, parameter in flow.named_parameters()}
    spared = {names[id(p)] for p in others["params"]}
    assert all("bias" in key or "norm" in key or key in ("mixing_lu", "position") for key in spared)
    assert not any("bias" in names[id(p)] for p in decayed["params"])
    # Without gradients, AdamW moves what it decays, and nothing else.
    before = {key: parameter.detach().clone() for key, parameter in flow.named_parameters()}
    for parameter in flow.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(flow.parameter_groups(0.1), lr=1.0).step()
    for key, parameter in flow.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[key] * (1.0 if key in spared else 0.9))
