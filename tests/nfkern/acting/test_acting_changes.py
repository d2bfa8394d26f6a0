"""A frozen flow whose layers, hooks, tensors or settings are not those of the flow that it was built as."""

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch
from support import flows
from torch import nn

from nfkern import Encoder
from nfkern.flows import native_calls as acting
from nfkern.flows.native_calls import native_reasons
from nfkern.kernels import use_reference

WIDTH, OBSERVED = 24, 7


def close(actual, expected, dtype):
    """Within rounding of the hidden products."""
    for a, e in zip(actual, expected, strict=True):
        tolerance = 64 * torch.finfo(dtype).eps
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * float(e.abs().max()))


def make(dtype=torch.float32, change=None, **options):
    """A frozen flow, whose encoder was changed before."""
    flow = flows.make_flow("paper", torch.float32, **options)
    torch.manual_seed(1)
    encoder = Encoder(OBSERVED, flow.context_features, width=WIDTH, layers=3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if change is not None:
        change(encoder)
    return flow.freeze(dtype, encoder)


def actions(frozen, rows=3, sigma=0.1):
    observations = np.random.default_rng(0).normal(size=(rows, OBSERVED)).astype(np.float32)
    return torch.from_numpy(frozen.act(observations, sigma, generator=torch.Generator().manual_seed(3)))


def right(frozen, dtype=torch.float32):
    """Actions and densities, if they are the reference's."""
    x, observations = torch.randn(4, frozen.features), torch.randn(4, OBSERVED)

    def results():
        return actions(frozen), frozen(x, observations)

    with use_reference():
        expected = results()
    found = results()
    close(found, expected, dtype)
    return found[0]


def wider(encoder):
    encoder[3], encoder[4] = nn.Linear(WIDTH, 40), nn.LayerNorm(40)
    encoder[6] = nn.Linear(40, WIDTH)


def setter(index, module):
    return lambda encoder: encoder.__setitem__(index, module().eval())


def new_weight(encoder):
    encoder[0].weight = nn.Parameter(2 * encoder[0].weight.detach())


def other_class(encoder):
    encoder[2].__class__ = nn.Tanh


def parametrized(encoder):
    nn.utils.parametrizations.weight_norm(encoder[0]).parametrizations.weight.original0.data.mul_(2)


CHANGES = {
    "relu": setter(2, nn.ReLU),
    "prelu": setter(2, lambda: nn.PReLU(init=0.5)),
    "dropout": setter(5, lambda: nn.Dropout(0.5)),
    "other_class": other_class,
    "hook": lambda e: e[2].register_forward_hook(lambda module, given, result: 2 * result) and None,
    "pre_hook": lambda e: e[0].register_forward_pre_hook(lambda module, given: (2 * given[0],)) and None,
    "hook_of_the_whole": lambda e: e.register_forward_hook(lambda module, given, result: 2 * result) and None,
    "forward": lambda e: setattr(e[2], "forward", torch.tanh),
    "wider": wider,
    "without_bias": setter(0, lambda: nn.Linear(OBSERVED, WIDTH, bias=False)),
    "hidden_without_bias": setter(3, lambda: nn.Linear(WIDTH, WIDTH, bias=False)),
    "last_without_bias": setter(9, lambda: nn.Linear(WIDTH, 5, bias=False)),
    "norm_without_weights": setter(1, lambda: nn.LayerNorm(WIDTH, elementwise_affine=False)),
    "other_norm": setter(4, lambda: nn.RMSNorm(WIDTH)),
    "epsilon": lambda e: setattr(e[1], "eps", 0.5),
    "new_weight": new_weight,
    "parametrized": parametrized,
    "layers_more": lambda e: e.append(nn.Tanh()) and None,
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CHANGES)
def test_encoders_other_than_they_were_built(name, dtype):
    """Before freezing; or after a first call, which has made the native flow."""
    before = right(make(dtype), dtype)
    changed = right(make(dtype, CHANGES[name]), dtype)
    frozen = make(dtype)
    actions(frozen)
    CHANGES[name](frozen.encoder)
    later = right(frozen, dtype)
    assert (changed - before).abs().max() > 1e-4
    assert (later - before).abs().max() > 1e-4


def test_hooks_of_all_modules():
    frozen = make()
    before = actions(frozen)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, given, result: 2 * result if isinstance(module, nn.SiLU) else None
    )
    try:
        assert (right(frozen) - before).abs().max() > 1e-4
    finally:
        handle.remove()
    assert torch.equal(actions(frozen), before)


def test_a_reason_that_goes_leaves_the_one_step():
    frozen = make()
    before = actions(frozen)
    handle = frozen.encoder[2].register_forward_hook(lambda module, given, result: 2 * result)
    assert native_reasons(frozen) == ["encoder.2: hooks or a forward of its own"]
    assert not torch.equal(actions(frozen), before)
    handle.remove()
    assert torch.equal(actions(frozen), before)


ASSIGNMENTS = {
    "buffer": lambda f: setattr(f, "output_bias", f.output_bias + 0.5),
    "matrices": lambda f: setattr(f, "inverse_mixing", 2 * f.inverse_mixing),
    "state": lambda f: f.load_state_dict({k: 1.5 * v for k, v in f.state_dict().items()}, assign=True) and None,
    "norm_eps": lambda f: setattr(f, "norm_eps", 0.5),
    "scale_bound": lambda f: setattr(f, "scale_bound", 0.01),
    "encoder": lambda f: setattr(f, "encoder", make().encoder.requires_grad_(False)) or f.encoder[0].weight.mul_(2),
}


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_assignments_show(name):
    frozen = make()
    before = actions(frozen)
    with torch.no_grad():
        ASSIGNMENTS[name](frozen)
    assert (right(frozen) - before).abs().max() > 1e-4


def test_a_hidden_weight_in_another_dtype_is_refused():
    frozen = make()
    actions(frozen)
    frozen.hidden_weight = frozen.hidden_weight.bfloat16()
    with pytest.raises(TypeError, match="hidden_weight: expected torch.float32 or the compute_dtype"):
        actions(frozen)


def test_functional_call_uses_the_given_tensors():
    frozen, x, observations = make(), torch.randn(3, 6), torch.randn(3, OBSERVED)
    before = frozen(x, observations)
    state = {name: 1.5 * tensor for name, tensor in frozen.state_dict().items()}
    given = torch.func.functional_call(frozen, state, (x, observations))
    with use_reference():
        close([given], [torch.func.functional_call(frozen, state, (x, observations))], torch.float32)
    assert not torch.allclose(given, before)
    assert torch.equal(frozen(x, observations), before)
    stacked = {name: torch.stack([tensor, 1.5 * tensor]) for name, tensor in frozen.state_dict().items()}
    both = torch.vmap(lambda s: torch.func.functional_call(frozen, s, (x, observations)))(stacked)
    close(both, torch.stack([before, given]), torch.float32)


def narrower(tensor):
    return tensor.narrow(-1, 0, tensor.shape[-1] - 1) if tensor.ndim else tensor.expand(2)


@pytest.mark.parametrize("how", ["assigned", "data", "none"])
def test_tensors_of_the_wrong_shape_are_refused(how):
    """And never read past their end; each comes after a call that was right."""
    names = [name for name, _ in [*make().named_buffers(), *make().named_parameters()]]
    assert len(names) > 20
    for name in names:
        frozen = make()
        actions(frozen)
        module = frozen.get_submodule(name.rpartition(".")[0])
        last = name.rpartition(".")[2]
        tensor = getattr(module, last)
        if how == "data":
            tensor.data = narrower(tensor)
        else:
            wrong = None if how == "none" else narrower(tensor.detach()).clone()
            setattr(module, last, nn.Parameter(wrong) if isinstance(tensor, nn.Parameter) and how != "none" else wrong)
        with use_reference():
            try:
                expected = actions(frozen)
            except Exception:
                expected = None
        if expected is None:
            with pytest.raises((ValueError, TypeError, RuntimeError, AttributeError)):
                actions(frozen)
        else:
            close([actions(frozen)], [expected], torch.float32)


def test_first_calls_of_many_threads_are_alike(monkeypatch):
    """No thread sees half of what another one makes."""
    gather = acting._gather

    def slow(*arguments):
        time.sleep(0.02)
        return gather(*arguments)

    monkeypatch.setattr(acting, "_gather", slow)
    frozen, barrier = make(), Barrier(8)
    expected = actions(make())

    def first(_):
        barrier.wait()
        time.sleep(0.005 * _)
        return actions(frozen)

    with ThreadPoolExecutor(8) as pool:
        assert all(torch.equal(found, expected) for found in pool.map(first, range(8)))


def test_a_flow_goes_with_its_last_name():
    """Not at the next garbage collection: a policy frozen at every evaluation would pile up."""
    frozen = make()
    actions(frozen)
    weight, enabled = weakref.ref(frozen.hidden_weight), gc.isenabled()
    gc.disable()
    try:
        del frozen
        assert weight() is None
    finally:
        if enabled:
            gc.enable()


class TestNotFinite:
    """Numbers that are not finite are named, and never become an action."""

    @pytest.fixture(params=["native", "reference", "other encoder"])
    def frozen(self, request):
        if request.param == "other encoder":
            yield flows.make_flow("paper", torch.float32).freeze(encoder=nn.Linear(OBSERVED, 5))
        else:
            with use_reference(request.param == "reference"):
                yield make()

    @pytest.mark.parametrize(("value", "name"), [(float("nan"), "NaN"), (float("inf"), "inf"), (-1e300, "-inf")])
    def test_observations(self, frozen, value, name):
        observations = np.zeros((2, 3, OBSERVED))
        observations[1, 2, 4] = value
        with pytest.raises(ValueError, match=rf"observations: expected finite .*, got {name} first at .*\[1, 2, 4\]"):
            frozen.act(observations)
        assert np.isfinite(frozen.act(np.ones((2, OBSERVED), np.int64))).all()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["hidden_weight", "encoder.0.weight", "encoder.9.bias", "inverse_mixing"])
    @pytest.mark.parametrize("called", [False, True], ids=["at first", "later"])
    def test_weights_after_freezing(self, name, value, called):
        frozen = make()
        if called:
            actions(frozen)
        frozen.state_dict()[name].view(-1)[1] = value
        with pytest.raises(ValueError, match=rf"{name}: expected finite parameters, got (NaN|inf) first at index"):
            actions(frozen)
        with pytest.raises(ValueError, match=rf"{name}: expected finite parameters"):
            frozen.to_data(torch.randn(3, 6), torch.randn(3, OBSERVED))

    def test_weights_of_an_encoder_when_freezing(self):
        def spoil(encoder):
            encoder[3].weight.data[1, 2] = float("inf")

        with pytest.raises(ValueError, match=r"encoder.3.weight: not finite when frozen .* got inf first .*\[1, 2\]"):
            make(change=spoil)
