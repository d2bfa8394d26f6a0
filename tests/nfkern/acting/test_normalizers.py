"""Frozen flows in the units of the data: observations and actions, in every call."""

import copy
import io

import numpy as np
import pytest
import torch
from support import flows
from torch import nn

import nfkern
from nfkern.acting.units import Units
from nfkern.flows.native_calls import native_reasons
from nfkern.kernels import use_reference

NAMES = ["paper", "inverted", "tanh_bounds", "box", "causal_published", "causal_box"]
OBSERVED = 7


def make(name, dtype=torch.float64, encoder="Encoder"):
    """A flow, its encoder, normalisers, observations and noise."""
    flow = flows.make(name, dtype).eval()
    torch.manual_seed(1)
    layers = nfkern.Encoder(OBSERVED, flow.context_features, width=24, layers=2).to(dtype)
    if encoder == "other":
        layers = nn.Sequential(nn.Linear(OBSERVED, 5), nn.Tanh(), nn.Linear(5, flow.context_features)).to(dtype)
    normalizers = [nfkern.Normalizer(size).to(dtype) for size in (OBSERVED, flow.features)]
    for each in normalizers:
        each.center.normal_(0, 10)
        each.scale.uniform_(0.1, 5)
    seen = normalizers[0].inverse(torch.randn(6, OBSERVED, dtype=dtype))
    return flow, layers, normalizers, seen, torch.randn(6, *flow.event_shape, dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoder", ["Encoder", "other"])
def test_every_call_is_that_of_the_flow_between_its_normalisers(name, encoder):
    flow, layers, (observed, acted), seen, z = make(name, encoder=encoder)
    frozen = flow.freeze(None, layers, normalizer=observed, action_normalizer=acted)
    context = layers(observed(seen))
    jacobian = acted.scale.log().sum() * (z[0].numel() // flow.features)
    x, log_det = flow.to_data(z, context)
    found, found_log_det = frozen.to_data(z, seen)
    torch.testing.assert_close(found, acted.inverse(x).detach())
    torch.testing.assert_close(found_log_det, (log_det + jacobian).detach())
    torch.testing.assert_close(frozen.to_latent(found, seen)[0], z)
    torch.testing.assert_close(frozen.log_prob(found, seen), (flow.log_prob(x, context) - jacobian).detach())
    torch.testing.assert_close(frozen.score(found, seen), flow.score(x, context) / acted.scale)
    torch.testing.assert_close(frozen.condition(seen).sample(noise=z), found)
    if flow.bounds is None:
        denoised = acted.inverse(flow.sample_denoised(0.3, (), context, noise=z))
        torch.testing.assert_close(frozen.sample_denoised(0.3, (), seen, noise=z), denoised)
        if name.startswith("causal"):
            again = frozen.sample_denoised(0.3, (), seen, noise=z, method="jacobi", tolerance=1e-9)
            torch.testing.assert_close(again, denoised)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_act(name, dtype):
    flow, layers, (observed, acted), seen, _ = make(name, torch.float32)
    frozen = flow.freeze(dtype, layers, normalizer=observed, action_normalizer=acted)
    plain = flow.freeze(dtype, layers)
    for sigma in (0.0, 0.2) if flow.bounds is None else (0.0,):

        def act(policy, seen, sigma=sigma, **options):
            seen = seen.numpy() if isinstance(seen, torch.Tensor) else seen
            return policy.act(seen, sigma, generator=torch.Generator().manual_seed(0), **options)

        expected = acted.inverse(torch.from_numpy(act(plain, observed(seen)))).numpy()
        tolerance = {
            "rtol": 2e-3 if dtype == torch.bfloat16 else 1e-4,
            "atol": 0.05 if dtype == torch.bfloat16 else 1e-3,
        }
        for found in (act(frozen, seen), act(frozen, seen.double().numpy()), act(copy.deepcopy(frozen), seen)):
            np.testing.assert_allclose(found, expected, **tolerance)
        with use_reference():
            np.testing.assert_allclose(act(frozen, seen), expected, **tolerance)
        # A robot's units are then outside of the data's.
        units = Units(
            *(
                np.full(size, value)
                for size, value in ((7, 1), (7, 2), *((expected[0].size, n) for n in (3, 4, -50, 50)))
            )
        )
        np.testing.assert_allclose(
            act(frozen, seen * 2 + 1, units=units), np.clip(expected * 4 + 3, -50, 50), rtol=2e-3, atol=0.2
        )


def test_it_stays_in_c():
    flow, layers, (observed, acted), seen, _ = make("paper", torch.float32)
    frozen = flow.freeze(None, layers, normalizer=observed, action_normalizer=acted)
    assert not native_reasons(frozen)
    assert native_reasons(flow.freeze(None, nn.Sequential(observed, layers)))
    frozen.act(seen.numpy())
    assert frozen._native.act(frozen, seen.numpy(), 0.0, 1.0, None, frozen._action_units).shape == (6, 6)


def test_nothing_is_shared_and_nothing_changed():
    flow, layers, (observed, acted), seen, z = make("box", torch.float32)
    before = copy.deepcopy(layers.state_dict())
    frozen = flow.freeze(torch.int8, layers, normalizer=observed, action_normalizer=acted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())
    expected = frozen.sample((), seen, noise=z)
    file = io.BytesIO()
    torch.save(frozen, file)
    file.seek(0)
    for each in (observed, acted, layers[0], flow):
        for tensor in (*each.parameters(), *each.buffers()):
            tensor.detach().fill_(3.0)
    for again in (frozen, torch.load(file, weights_only=False), copy.deepcopy(frozen).to("cpu")):
        torch.testing.assert_close(again.sample((), seen, noise=z), expected, rtol=0, atol=0)


def test_an_encoder_with_a_hook_gets_what_it_got():
    flow, layers, (observed, _), seen, z = make("paper")
    layers[0].register_forward_pre_hook(lambda module, inputs: (inputs[0].clamp(-1, 1),))
    frozen = flow.freeze(None, layers, normalizer=observed)
    torch.testing.assert_close(frozen.sample((), seen, noise=z), flow.sample((), layers(observed(seen)), noise=z))


def test_without_an_encoder_contexts_are_normalised():
    flow, _, _, _, z = make("paper")
    normalizer = nfkern.Normalizer.fit(3 + torch.randn(50, 5)).double()
    context = torch.randn(6, 5, dtype=torch.float64)
    found = flow.freeze(normalizer=normalizer).sample((), context, noise=z)
    torch.testing.assert_close(found, flow.sample((), normalizer(context), noise=z))


def test_an_unconditional_flow_and_one_feature_have_units_of_actions():
    for options in ({"context_features": 0}, {"features": 1}):
        flow = flows.make_flow(dtype=torch.float32, **options).eval()
        acted = nfkern.Normalizer.fit(100 + 5 * torch.randn(50, flow.features))
        frozen, (x, context) = flow.freeze(action_normalizer=acted), flows.make_inputs(flow, 4)
        torch.testing.assert_close(frozen.to_data(x, context)[0], acted.inverse(flow.to_data(x, context)[0]).detach())
        if context is not None:
            assert (np.abs(frozen.act(context.numpy()) - 100) < 60).all()


def test_the_support_is_in_the_datas_units():
    flow, layers, (_, acted), seen, _ = make("tanh_bounds")
    support = flow.freeze(None, layers, action_normalizer=acted).condition(seen).support
    low, high = acted.inverse(-torch.ones(6).double()), acted.inverse(torch.ones(6).double())
    assert support.check(torch.stack([low, high])).all()
    assert not support.check(high + 0.01).any()


def of(size, center=0.0, scale=1.0):
    normalizer = nfkern.Normalizer(size)
    normalizer.center.fill_(center)
    normalizer.scale.fill_(scale)
    return normalizer


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"normalizer": of(6)}, ValueError, "normalizer: expected one of 7 features, got 6"),
        ({"action_normalizer": of(7)}, ValueError, "action_normalizer: expected one of 6 features, got 7"),
        ({"normalizer": nn.Identity()}, TypeError, r"normalizer: expected an nfkern\.Normalizer, got Identity"),
        ({"action_normalizer": 2.0}, TypeError, r"action_normalizer: expected an nfkern\.Normalizer, got float"),
        (
            {"action_normalizer": of(6, scale=0.0)},
            ValueError,
            "action_normalizer: expected finite centers and scales > 0",
        ),
        ({"normalizer": of(7, center=float("nan"))}, ValueError, "normalizer: expected finite centers"),
    ],
)
def test_other_normalisers_are_refused(options, error, message):
    flow, layers, *_ = make("paper")
    with pytest.raises(error, match=message):
        flow.freeze(None, layers, **options)
