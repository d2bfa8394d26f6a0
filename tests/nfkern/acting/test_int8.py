"""Flows frozen in int8 are those of the rounded weights: nothing but the weights is rounded."""

import copy

import numpy as np
import pytest
import torch
from support import flows

import nfkern
from nfkern.flows.int8 import dequantized, quantized
from nfkern.flows.native_calls import native_reasons
from nfkern.kernels import use_reference
from nfkern.kernels.dispatch import native_extension

OBSERVED = 7
NATIVE = [name for name, options in flows.OPTIONS.items() if not {"inverted", "bounds"} & options.keys()]


def encoder_for(flow, width=40):
    """None without a context; else a small one whose norms matter."""
    if not flow.context_features:
        return None
    torch.manual_seed(1)
    encoder = nfkern.Encoder(OBSERVED, flow.context_features, width=width, layers=3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def pair(name="paper", **options):
    """A flow in int8, and one in float32 that multiplies by the weights which those stand for."""
    flow = flows.make_flow(name, torch.float32, **options)
    encoder = encoder_for(flow)
    frozen, twin = flow.freeze(torch.int8, encoder), flow.freeze(torch.float32, encoder)
    for each in ("hidden", "context") if flow.context_features else ("hidden",):
        weight = dequantized(getattr(frozen, f"{each}_weight"), getattr(frozen, f"{each}_scale"))
        getattr(twin, f"{each}_weight").copy_(weight)
    for index in (3, 6) if encoder else ():
        layer = frozen.encoder[index]
        twin.encoder[index].weight.copy_(dequantized(layer.weight, layer.scale))
    return frozen, twin


def in_float64(twin, flow):
    exact = copy.deepcopy(flow).double().freeze(torch.float64, copy.deepcopy(twin.encoder))
    exact.load_state_dict({name: tensor.double() for name, tensor in twin.state_dict().items()})
    return exact


def results(frozen, x, observations):
    return {
        "log_prob": frozen(x, observations),
        **dict(zip(("z", "latent_log_det"), frozen.to_latent(x, observations), strict=True)),
        **dict(zip(("x", "data_log_det"), frozen.to_data(x, observations), strict=True)),
        **dict(zip(("y", "log_det", "score"), frozen._run("to_data_with_score", x, observations), strict=True)),
    }


def compare(name="paper", rows=3, **options):
    """Every map, natively, within the tolerance of a fast path for the definition.

    Scale and error of float32 are those of 40 rows or more: one row's log-determinant may be a sum of next to nothing.
    """
    frozen, twin = pair(name, **options)
    flow = flows.make_flow(name, torch.float32, **options)
    torch.manual_seed(2)
    x, observations = torch.randn(max(rows, 40), frozen.features), torch.randn(max(rows, 40), OBSERVED)
    observations = observations if frozen.context_features else None
    with use_reference():
        single = results(twin, x, observations)
        wide = None if observations is None else observations.double()
        exact = results(in_float64(twin, flow), x.double(), wide)
    found = results(frozen, x[:rows], None if observations is None else observations[:rows])
    assert frozen._native._native is not None
    units = max(*flow.hidden, 40)
    for key, truth in exact.items():
        bound = 2 * (single[key] - truth).abs().max()
        bound += 4 * torch.finfo(torch.float32).eps * units**0.5 * truth.abs().max()
        assert (found[key] - truth[:rows]).abs().max() <= bound, key


@pytest.fixture(params=native_extension.instruction_sets())
def _instruction_set(request):
    with native_extension.use_instruction_set(request.param):
        yield


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("rows", [1, 3, 21, 70])
def test_every_map_is_that_of_the_rounded_weights(rows):
    compare(rows=rows)
    compare(rows=rows, hidden=(72, 133), features=9)


@pytest.mark.usefixtures("_instruction_set")
def test_weights_that_no_cache_holds():
    """They are read sixteen rows side by side."""
    compare(rows=2, hidden=(1500, 1500), blocks=2, context_features=9)


@pytest.mark.parametrize("name", NATIVE)
def test_every_named_flow(name):
    compare(name)


@pytest.mark.parametrize("name", flows.OPTIONS)
def test_the_ordinary_way_multiplies_by_the_rounded_weights(name):
    frozen, twin = pair(name)
    x, observations = flows.make_inputs(frozen, 4)[0], torch.randn(4, OBSERVED)
    observations = observations if frozen.context_features else None
    with use_reference():
        for found, expected in zip(
            (frozen(x, observations), *frozen.to_data(x, observations)),
            (twin(x, observations), *twin.to_data(x, observations)),
            strict=True,
        ):
            torch.testing.assert_close(found, expected)


def test_actions_and_seeds():
    frozen, twin = pair()
    assert native_reasons(frozen) == []
    observations = np.random.default_rng(0).normal(size=(1, OBSERVED)).astype(np.float32)
    found, again, expected = (
        each.act(observations, 0.1, generator=torch.Generator().manual_seed(3)) for each in (frozen, frozen, twin)
    )
    np.testing.assert_array_equal(found, again)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_nearest_int8():
    weight = torch.randn(2, 5, 9, dtype=torch.float64)
    weight[0, 1] = 0
    weight[1, 2] *= 1e-30
    steps, scale = quantized(weight)
    assert steps.dtype == torch.int8
    assert scale.dtype == torch.float32
    assert (dequantized(steps, scale) - weight).abs().le(0.5001 * scale.unsqueeze(-1)).all()
    largest = steps.abs().amax(-1)
    assert largest[0, 1] == 0
    largest[0, 1] = 127
    assert (largest == 127).all()


def test_small_weights_stay_in_float32():
    flow = flows.make_flow(dtype=torch.float64)
    frozen = flow.freeze(torch.int8, encoder_for(flow))
    assert frozen.dtype == torch.int8
    dtypes = {name: tensor.dtype for name, tensor in frozen.state_dict().items()}
    lowered = [name for name, dtype in dtypes.items() if dtype == torch.int8]
    assert lowered == ["context_weight", "hidden_weight", "encoder.3.weight", "encoder.6.weight"]
    assert set(dtypes.values()) == {torch.int8, torch.float32}


def test_edits_show():
    frozen, _ = pair()
    observations = np.ones((1, OBSERVED), np.float32)

    def action():
        return frozen.act(observations, generator=torch.Generator().manual_seed(3))

    before = action()
    for edit in (
        lambda: frozen.hidden_scale.mul_(1.5),
        lambda: frozen.context_weight.neg_(),
        lambda: frozen.encoder[3].scale.mul_(1.5),
        lambda: setattr(frozen, "hidden_weight", -frozen.hidden_weight),
    ):
        edit()
        after = action()
        assert np.abs(after - before).max() > 1e-4
        with use_reference():
            np.testing.assert_allclose(action(), after, rtol=1e-4, atol=1e-4)
        before = after
    frozen.hidden_scale[0, 1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"hidden_scale: expected finite parameters, got NaN .* \[0, 1, 2\]"):
        action()


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(f, "hidden_scale", f.hidden_scale[:, :, 1:].contiguous()),
        lambda f: setattr(f, "context_scale", f.context_scale.double()),
        lambda f: setattr(f, "hidden_weight", f.hidden_weight[..., 1:].contiguous()),
        lambda f: setattr(f.encoder[3].scale, "data", f.encoder[3].scale[1:].contiguous()),
    ],
)
def test_scales_and_weights_that_do_not_fit_are_refused(change):
    frozen, _ = pair()
    frozen.act(np.ones((1, OBSERVED), np.float32))
    change(frozen)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        frozen.act(np.ones((1, OBSERVED), np.float32))


def test_what_it_is_not_for():
    with pytest.raises(ValueError, match=r"dtype: expected one of [^8]* for a CausalFlow, got torch.int8"):
        flows.make_causal(dtype=torch.float32).freeze(torch.int8)
    flow = flows.make_flow(dtype=torch.float32)
    message = "dtype: torch.int8 is for acting on a CPU, got a flow on meta; use torch.bfloat16"
    frozen = flow.freeze(torch.int8)
    with pytest.raises(ValueError, match=message):
        frozen.to("meta")
    assert frozen.hidden_weight.device.type == "cpu"
    with pytest.raises(ValueError, match=message):
        flow.to("meta").freeze(torch.int8)
    flow = flows.make_flow(dtype=torch.float32)
    flow.hidden_weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="hidden_weight: not finite when frozen in torch.int8: the flow has NaN"):
        flow.freeze(torch.int8)
