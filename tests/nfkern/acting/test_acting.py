"""A frozen flow's calls in one step of C++, against the general path through the reference."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from support import flows
from torch import nn

import nfkern
from nfkern import Encoder
from nfkern.flows.native_calls import native_reasons
from nfkern.kernels import use_reference

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def frozen_with(name="paper", dtype=torch.float32, encoder=True, **options):
    """A frozen flow, and how wide what it observes is."""
    flow = flows.make_flow(name, torch.float32, **options)
    if not encoder or not flow.context_features:
        return flow.freeze(dtype), flow.context_features
    layers = Encoder(7, flow.context_features, width=24, layers=3)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow.freeze(dtype, layers), 7


def close(actual, expected, dtype):
    """Within rounding of the hidden products."""
    for a, e in zip(actual, expected, strict=True):
        tolerance = 64 * torch.finfo(dtype).eps
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * float(e.abs().max()))


@pytest.mark.parametrize("encoder", [False, True], ids=["contexts", "observations"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("batch", [(), (1,), (3, 2), (21,), (70,)], ids=str)
def test_calls_equal_the_reference_s(batch, dtype, encoder, monkeypatch):
    frozen, width = frozen_with(dtype=dtype, encoder=encoder)
    x, observation = torch.randn(*batch, frozen.features), torch.randn(*batch, width)

    def results():
        return (
            frozen(x, observation),
            *frozen.to_latent(x, observation),
            *frozen.to_data(x, observation),
            frozen.sample_denoised(0.1, (), observation, noise=x),
        )

    with use_reference():
        expected = results()
    # The general path may not even be asked.
    monkeypatch.setattr(frozen, "_project", None)
    close(results(), expected, dtype)


@pytest.mark.parametrize("name", list(flows.OPTIONS))
def test_every_named_flow(name):
    frozen, width = frozen_with(name)
    x, observation = torch.randn(5, frozen.features), torch.randn(5, width) if width else None
    data = torch.tanh(x) if frozen.bounds else x
    with use_reference():
        expected = (frozen(data, observation), *frozen.to_data(x, observation))
    close((frozen(data, observation), *frozen.to_data(x, observation)), expected, torch.float32)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("rows", [1, 40])
def test_act_is_sample_from_numpy_to_numpy(rows, sigma):
    frozen, width = frozen_with()
    observations = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    actions = frozen.act(observations, sigma, temperature=0.7, generator=torch.Generator().manual_seed(3))
    with use_reference():
        expected = frozen.act(observations, sigma, temperature=0.7, generator=torch.Generator().manual_seed(3))
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions, expected, rtol=1e-4, atol=1e-4)
    assert frozen.act(observations[0]).shape == (frozen.features,)
    assert frozen.act(observations[:0]).shape == (0, frozen.features)
    torch.manual_seed(5)
    first = frozen.act(observations.astype(np.float64), sigma)
    torch.manual_seed(5)
    np.testing.assert_array_equal(frozen.act(np.asfortranarray(observations), sigma), first)


def test_act_elsewhere_than_in_c():
    """Flows that the extension does not take act all the same."""
    for options in ({"inverted": True}, {"features": 1}):
        flow = flows.make_flow(dtype=torch.float32, **options)
        frozen = flow.freeze()
        assert native_reasons(frozen)
        assert frozen.act(np.zeros((2, flow.context_features), np.float32)).shape == (2, frozen.features)


@pytest.mark.parametrize("name", ["tanh_bounds", "box"])
def test_bounded_flows_act_in_c_and_are_bounded_after(name):
    frozen, width = frozen_with(name)
    assert not native_reasons(frozen)
    seen = np.random.default_rng(0).normal(size=(50, width)).astype(np.float32)
    expected, found = (
        call(generator=torch.Generator().manual_seed(0), temperature=2.0)
        for call in (partial(frozen.sample, (), torch.from_numpy(seen)), partial(frozen.act, seen))
    )
    np.testing.assert_array_equal(found, expected.numpy())
    with use_reference():
        again = frozen.act(seen, generator=torch.Generator().manual_seed(0), temperature=2.0)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="bounds: expected None for denoising"):
        frozen.act(seen, 0.1)


@pytest.mark.parametrize("wrong", [None, "x", np.ones(2)])
def test_act_refuses_what_is_no_number_by_name(wrong):
    frozen, width = frozen_with()
    with pytest.raises(TypeError, match="sigma: expected a number, got"):
        frozen.act(np.zeros(width, np.float32), wrong)


def test_act_refuses_bad_input():
    frozen, width = frozen_with()
    with pytest.raises(ValueError, match=rf"observations: expected shape \(\.\.\., {width}\), got \(3, {width + 1}\)"):
        frozen.act(np.zeros((3, width + 1), np.float32))
    with pytest.raises(TypeError, match="observations: expected a numpy array of numbers, got list"):
        frozen.act([1.0])
    with pytest.raises(TypeError, match="got object"):
        frozen.act(np.array([None]))
    with pytest.raises(ValueError, match="sigma: expected a finite number >= 0, got -1"):
        frozen.act(np.zeros(width, np.float32), -1)
    with pytest.raises(ValueError, match="temperature: .* got nan"):
        frozen.act(np.zeros(width, np.float32), temperature=float("nan"))
    unconditional, _ = frozen_with("unconditional")
    with pytest.raises(ValueError, match="context_features=0"):
        unconditional.act(np.zeros(2, np.float32))


def test_actions_that_someone_holds_are_never_written_to_again():
    """However they are held: arrays that nobody holds any more come back as later actions."""
    frozen, width = frozen_with()
    observations = np.random.default_rng(0).normal(size=(12, width)).astype(np.float32)

    def act(index):
        return frozen.act(observations[index], generator=torch.Generator().manual_seed(index))

    expected = [act(i).tolist() for i in range(12)]
    holders = [lambda a: a, lambda a: a[1:], memoryview, torch.from_numpy, lambda a: a.reshape(2, 3), np.asarray]
    held = [holders[i % 6](act(i)) for i in range(12)]
    for i, (each, wanted) in enumerate(zip(held, expected, strict=True)):
        assert np.asarray(each).ravel().tolist() == (wanted[1:] if i % 6 == 1 else wanted)
    for spoil in (
        lambda a: setattr(a.flags, "writeable", False),
        lambda a: setattr(a, "shape", (2, 3)),
        lambda a: setattr(a, "dtype", np.int32),
        lambda a: a.fill(np.nan),
    ):
        for _ in range(3):
            spoil(act(0))
        assert [act(i).tolist() for i in range(3)] == expected[:3]


def test_an_action_that_nobody_holds_gives_its_array_back():
    frozen, width = frozen_with()
    observation = np.zeros(width, np.float32)
    frozen.act(observation)
    assert len({frozen.act(observation).ctypes.data for _ in range(5)}) == 1


def test_other_shapes_take_the_general_path():
    frozen, width = frozen_with()
    x, observation = torch.randn(6, 4, frozen.features), torch.randn(6, 1, width)
    shared = frozen.to_data(x, observation)
    each = frozen.to_data(x, observation.expand(6, 4, width))
    close(shared, each, torch.float32)
    with pytest.raises(ValueError, match="context"):
        frozen.to_data(x)


def test_edits_in_place_show():
    frozen, width = frozen_with()
    x, observation = torch.randn(2, frozen.features), torch.randn(2, width)
    frozen.to_data(x, observation)
    with torch.no_grad():
        frozen.output_bias.add_(0.5)
        frozen.mixing_log_det.add_(1)
        frozen.encoder[0].weight.mul_(1.5)
    frozen.inverse_mixing.data = frozen.inverse_mixing * 2
    with use_reference():
        expected = (*frozen.to_data(x, observation), frozen(x, observation))
    close((*frozen.to_data(x, observation), frozen(x, observation)), expected, torch.float32)


def test_copies_pickles_and_moves_are_their_own():
    frozen, width = frozen_with()
    observation = torch.randn(2, width)
    before = frozen.to_data(torch.ones(2, frozen.features), observation)
    for other in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen)), copy.deepcopy(frozen).to("cpu")):  # noqa: S301
        with torch.no_grad():
            other.output_bias.add_(1)
        assert not torch.allclose(other.to_data(torch.ones(2, frozen.features), observation)[0], before[0])
    close(frozen.to_data(torch.ones(2, frozen.features), observation), before, torch.float32)


def test_threads_do_not_meet():
    policies = [frozen_with(dtype=dtype)[0] for dtype in (torch.float32, torch.bfloat16, torch.float32)]
    observations = np.random.default_rng(1).normal(size=(30, 7)).astype(np.float32)

    def actions(index):
        policy, generator = policies[index % 3], torch.Generator().manual_seed(index)
        return policy.act(observations[index % 30][None], 0.1, generator=generator)

    expected = [actions(i) for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(actions, range(60)), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_reasons_against_the_one_step():
    assert native_reasons(frozen_with()[0]) == []
    assert "float16" in native_reasons(frozen_with(dtype=torch.float16)[0])[0]
    frozen = flows.make_flow("paper", torch.float32).freeze(
        encoder=nn.Linear(3, flows.make_flow("paper").context_features)
    )
    assert native_reasons(frozen) == ["encoder Linear: it takes nfkern.Encoder"]
    assert "on meta" in native_reasons(frozen.to("meta"))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_actions_that_overflow_are_refused(dtype, sigma):
    """NaN would pass through a clip to the bounds of the data as a bound."""
    flow = nfkern.CouplingFlow(3, 8, blocks=2, hidden=(16, 16))
    frozen = flow.freeze(dtype)
    assert np.isfinite(frozen.act(np.ones((2, 8), np.float32), sigma)).all()
    with torch.no_grad():
        flow.output_bias.fill_(800.0)
    for observations in (np.ones((2, 8), np.float32), np.ones(8)):
        with pytest.raises(ValueError, match=r"actions: not finite for these observations: the weights are finite"):
            flow.freeze(dtype).act(observations, sigma)
