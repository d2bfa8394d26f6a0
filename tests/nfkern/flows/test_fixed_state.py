"""Fixed state stays as it is when weights are averaged, cast and copied; a permutation that is none is refused."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import flows
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

import nfkern

MIXINGS = ["plu", "permute", "none"]
every_mixing = pytest.mark.parametrize("mixing", MIXINGS)


def make(mixing, seed=0, **options):
    return flows.make_flow("paper", mixing=mixing, seed=seed, **options).eval()


def legacy_state(mixing="plu"):
    """A state as it was saved when permutations were drawn."""
    state = dict(make(mixing).state_dict())
    state["permutation"] = torch.stack(
        [torch.randperm(6, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    )
    return state


def the_same(actual, expected, exactly=True):
    x, context = flows.make_inputs(expected, 4)
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(actual.log_prob(x, context), expected.log_prob(x, context), **tolerance)
    torch.testing.assert_close(actual.to_data(x, context)[0], expected.to_data(x, context)[0], **tolerance)


@every_mixing
def test_all_state_is_weights(mixing):
    flow = make(mixing)
    assert not list(flow.buffers())
    assert set(flow.state_dict()) == {name for name, _ in flow.named_parameters()}
    assert all(tensor.is_floating_point() for tensor in flow.state_dict().values())


@every_mixing
@pytest.mark.parametrize(
    "average", [{"avg_fn": get_ema_avg_fn(0.999)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}, {}]
)
def test_averages_of_a_flow_with_itself_are_the_flow(mixing, average):
    flow = make(mixing)
    averaged = AveragedModel(flow, use_buffers=True, **average)
    for _ in range(3):
        averaged.update_parameters(flow)
    the_same(averaged.module.eval(), flow, exactly=False)


@every_mixing
def test_averages_of_states_are_averages_of_weights(mixing):
    flow, other = make(mixing), make(mixing, seed=1)
    states = flow.state_dict(), other.state_dict()
    mean = {name: 0.3 * states[0][name] + 0.7 * states[1][name] for name in states[0]}
    expected = copy.deepcopy(flow)
    with torch.no_grad():
        for mine, theirs in zip(expected.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 0.7)
    flow.load_state_dict(mean)
    the_same(flow, expected, exactly=False)


@every_mixing
@pytest.mark.parametrize("cast", [torch.half, torch.bfloat16, torch.float64])
def test_casts_and_back(mixing, cast):
    flow = make(mixing)
    permutation = flow.permutation.clone()
    loaded = make(mixing, seed=3)
    loaded.load_state_dict({name: tensor.to(cast) for name, tensor in flow.state_dict().items()})
    assert torch.equal(loaded.permutation, permutation)
    assert torch.equal(flow.to(cast).double().permutation, permutation)
    x, context = flows.make_inputs(loaded, 4)
    torch.testing.assert_close(loaded.to_data(*loaded.to_latent(x, context)[:1], context)[0], x)


@every_mixing
@pytest.mark.parametrize("assign", [False, True])
def test_the_meta_device(mixing, assign):
    flow = make(mixing)
    with torch.device("meta"):
        built = nfkern.CouplingFlow(**flow.config)
    if not assign:
        built = built.to_empty(device="cpu").double()
        for parameter in built.parameters():
            torch.nn.init.constant_(parameter, float("nan"))
    built.load_state_dict(flow.state_dict(), assign=assign)
    the_same(built.eval(), flow)
    the_same(built.freeze(), flow.freeze())


def test_permutations_stay_what_they_are():
    """They are part of the file format, though files do not hold them: no version may draw others."""
    assert make("plu").permutation.tolist() == [[3, 5, 2, 4, 1, 0], [1, 2, 5, 3, 0, 4], [3, 0, 2, 1, 4, 5]]
    assert make("none").permutation.tolist() == [list(range(6))] * 3
    assert torch.equal(make("plu").permutation, make("permute", seed=5).permutation)


@pytest.mark.parametrize("mixing", ["plu", "permute"])
def test_a_state_that_brings_a_permutation_keeps_it(mixing, tmp_path):
    state, flow = legacy_state(mixing), make(mixing, seed=4)
    flow.load_state_dict(state)
    assert torch.equal(flow.permutation, state["permutation"])
    assert set(flow.state_dict()) == set(state)
    again = make(mixing, seed=5)
    again.load_state_dict(flow.state_dict())
    the_same(again, flow)
    flow.save_pretrained(tmp_path / "flow")
    the_same(nfkern.CouplingFlow.from_pretrained(tmp_path / "flow").eval(), flow)
    the_same(copy.deepcopy(flow), flow)
    # A state without one is of a flow with its own.
    flow.load_state_dict(make(mixing).state_dict())
    the_same(flow, make(mixing))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.clamp(max=4),
        lambda p: p + 1,
        lambda p: p - 1,
        lambda p: 0.999 * p.float(),
        lambda p: (p.float() + p.flip(1)) / 2,
        lambda p: p[:, :5],
        lambda p: p[0],
        lambda p: p * (1 + 0j),
        lambda p: torch.full(p.shape, float("nan")),
    ],
)
def test_a_permutation_that_is_none_is_refused(spoil, tmp_path):
    state, flow = legacy_state(), make("plu")
    before = flow.permutation.clone()
    state["permutation"] = spoil(state["permutation"]).contiguous()
    with pytest.raises(RuntimeError, match="permutation: expected 3 permutations of 0 to 5, got"):
        flow.load_state_dict(state)
    assert torch.equal(flow.permutation, before)
    flow.save_pretrained(tmp_path / "flow")
    save_file(state, tmp_path / "flow" / "model.safetensors")
    with pytest.raises(ValueError, match="permutation: expected 3 permutations"):
        nfkern.CouplingFlow.from_pretrained(tmp_path / "flow")


@pytest.mark.parametrize("call", ["log_prob", "to_data", "sample", "freeze", "log_prob with gradients"])
@pytest.mark.parametrize("seen", [False, True])
def test_a_permutation_spoilt_in_place_is_refused_at_its_first_use(call, seen):
    flow = make("plu")
    x, context = flows.make_inputs(flow, 3)
    if seen:
        flow(x, context)
    flow.permutation[1, 0] = flow.permutation[1, 1]
    calls = {
        "log_prob": lambda: torch.no_grad()(flow.log_prob)(x, context),
        "to_data": lambda: flow.to_data(x, context),
        "sample": lambda: flow.sample((), context),
        "freeze": flow.freeze,
        "log_prob with gradients": lambda: flow(x, context),
    }
    with pytest.raises(ValueError, match="permutation: expected 3 permutations of 0 to 5"):
        calls[call]()


def test_old_files_load(tmp_path):
    flow = make("plu")
    flow.save_pretrained(tmp_path / "flow")
    weights = load_file(tmp_path / "flow" / "model.safetensors")
    assert "permutation" not in weights
    state = legacy_state()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "flow" / "model.safetensors")
    restored = nfkern.CouplingFlow.from_pretrained(tmp_path / "flow")
    assert torch.equal(restored.permutation, state["permutation"])


@every_mixing
def test_on_meta_calls_have_shapes_and_take_parameters_from_elsewhere(mixing):
    flow = make(mixing)
    skeleton, (x, context) = copy.deepcopy(flow).to("meta"), flows.make_inputs(flow, 4)
    shapes = skeleton.log_prob(x.to("meta"), context.to("meta"))
    assert (shapes.device.type, shapes.shape) == ("meta", (4,))
    called = torch.func.functional_call(skeleton, dict(flow.named_parameters()), (x, context))
    torch.testing.assert_close(called, flow(x, context), rtol=0, atol=0)
    frozen = flow.freeze().to("meta")
    assert frozen.sample((2,), context.to("meta")).shape == (2, 4, 6)
