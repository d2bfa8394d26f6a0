"""A coupling flow's calls without derivatives, one step of C++: the same numbers, for the flow as it is now."""

import copy
import io

import pytest
import torch
from support import flows
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nfkern import CouplingFlow
from nfkern.flows.chunked import Chunked
from nfkern.flows.native_calls import native_reasons
from nfkern.kernels import use_reference

# PyTorch loads what it needs for tangents by torch.jit.script, which it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

MAPS = ("log_prob", "to_latent", "to_data", "to_data_with_score")
CONTEXT = 5


def make(context_features=CONTEXT, **options):
    torch.manual_seed(0)
    flow = CouplingFlow(6, context_features, blocks=3, hidden=(24, 20), **options)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow


def arguments(flow, *batch):
    torch.manual_seed(1)
    return torch.randn(*batch, flow.features), torch.randn(*batch, CONTEXT) if flow.context_features else None


def native(flow):
    """The flow in the extension, if a call has made it."""
    return flow._native._native


@torch.no_grad()
def both_ways(flow, which, x, context):
    """Results of the call, and those of the ordinary way operation by operation."""
    return flow._run(which, x, context), Chunked._run(flow, which, x, context)


def right(flow, *batch):
    """All maps' results, if they are those of the ordinary way."""
    found = []
    for which in MAPS:
        actual, expected = both_ways(flow, which, *arguments(flow, *batch))
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5 * float(1 + e.abs().max()))
        found += actual
    return found


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3), (70,)])
@pytest.mark.parametrize("context_features", [0, CONTEXT])
@pytest.mark.parametrize("options", [{}, {"mixing": "permute"}, {"mixing": "none", "scale_bound": 0.5}], ids=str)
def test_all_maps(options, context_features, batch):
    flow = make(context_features, **options)
    right(flow, *batch)
    assert native_reasons(flow) == []
    assert native(flow) is not None


def test_public_calls():
    """Each gives what it gives on the way with derivatives, for the same noise."""
    flow = make()
    x, context = arguments(flow, 3)
    calls = [
        lambda: flow(x, context),
        lambda: flow.sample((), context, noise=x),
        lambda: flow.rsample_and_log_prob((), context, noise=x)[1],
    ]
    with torch.no_grad():
        found = [call() for call in calls]
    assert native(flow) is not None
    for actual, call in zip(found, calls, strict=True):
        torch.testing.assert_close(actual, call().detach(), rtol=1e-5, atol=1e-5)
    with use_reference():
        expected = flow.sample_denoised(0.1, (), context, noise=x)
    torch.testing.assert_close(flow.sample_denoised(0.1, (), context, noise=x), expected, rtol=1e-5, atol=1e-5)


def opposite_order(flow):
    flow.permutation = flow.permutation.flip(1).contiguous()


def reversed_in_place(flow):
    flow.permutation.copy_(flow.permutation.flip(1))


def one_training_step(flow):
    optimizer = torch.optim.SGD(flow.parameters(), 0.1)
    with torch.enable_grad():
        flow(*arguments(flow, 8)).mean().backward()
    optimizer.step()


CHANGES = {
    **{
        f"{name}_{how}": change
        for name, _ in make().named_parameters()
        for how, change in {
            "in_place": lambda f, name=name: getattr(f, name).mul_(1.5),
            "through_data": lambda f, name=name: getattr(f, name).data.mul_(1.5),
            "new_data": lambda f, name=name: setattr(getattr(f, name), "data", 1.5 * getattr(f, name).data),
            "assigned": lambda f, name=name: setattr(f, name, nn.Parameter(1.5 * getattr(f, name))),
        }.items()
    },
    "permutation_assigned": opposite_order,
    "permutation_in_place": reversed_in_place,
    "norm_eps": lambda f: setattr(f, "norm_eps", 0.5),
    "scale_bound": lambda f: setattr(f, "scale_bound", 0.01),
    "inverted": lambda f: setattr(f, "inverted", True),
    "bounds": lambda f: setattr(f, "bounds", "tanh"),
    "state": lambda f: f.load_state_dict({k: 1.5 * v for k, v in f.state_dict().items()}),
    "state_assigned": lambda f: f.load_state_dict({k: 1.5 * v for k, v in f.state_dict().items()}, assign=True),
    "training": one_training_step,
    "parametrized": lambda f: nn.utils.parametrize.register_parametrization(f, "hidden_weight", nn.Tanh()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_show(name):
    """After a first call; a bias that a norm takes out again need not matter."""
    flow = make()
    before = right(flow, 4)
    with torch.no_grad():
        CHANGES[name](flow)
        maps = ["log_prob", "to_latent", "to_data"] if flow.bounds else MAPS
        for which in maps:
            actual, expected = both_ways(flow, which, *(each.clamp(-0.9, 0.9) for each in arguments(flow, 4)))
            for a, e in zip(actual, expected, strict=True):
                torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5 * float(1 + e.abs().max()))
    if flow.bounds is None:
        assert any((a - b).abs().max() > 1e-3 for a, b in zip(right(flow, 4), before, strict=True))


def test_a_permutation_that_is_none_is_refused():
    flow = make()
    right(flow, 2)
    flow.permutation[0, 0] = flow.permutation[0, 1]
    with torch.no_grad(), pytest.raises(ValueError, match="permutation: expected 3 permutations"):
        flow(*arguments(flow, 2))


def narrower(tensor):
    return tensor.narrow(-1, 0, tensor.shape[-1] - 1)


@pytest.mark.parametrize("name", [name for name, _ in make().named_parameters()])
def test_parameters_of_a_wrong_shape_or_dtype_are_refused(name):
    """And never read past their end, after a call that was right."""
    for change in (lambda p: setattr(p, "data", narrower(p.data)), lambda p: setattr(p, "data", p.data.double())):
        flow = make()
        right(flow, 2)
        change(getattr(flow, name))
        with torch.no_grad(), pytest.raises((ValueError, TypeError, RuntimeError)):
            flow(*arguments(flow, 2))


class _Ops(TorchDispatchMode):
    """The names of the operations that run inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_who_watches_operations_sees_them():
    flow = make().requires_grad_(False)
    x, context = arguments(flow, 3)
    expected = right(flow, 3)[0]
    with _Ops() as ops:
        flow(x, context)
    assert "nfkern::coupling_to_latent" in ops.names
    traced = torch.jit.trace(lambda x, context: flow(x, context), (x, context), check_trace=False)
    exported = torch.export.export(flow, (x, context)).module()
    for function in (traced, exported):
        torch.testing.assert_close(function(x, context), expected)
        torch.testing.assert_close(function(x + 1, context), flow(x + 1, context))


def test_transforms_take_the_ordinary_way():
    flow = make()
    x, context = arguments(flow, 3)
    right(flow, 3)
    gradient = torch.func.grad(lambda x: flow(x, context).sum())(x)
    torch.testing.assert_close(gradient, flow.score(x, context), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        _, tangent = torch.func.jvp(lambda x: flow(x, context), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, gradient.sum(-1), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(flow)(x, context), flow(x, context))
        state = {name: 1.5 * p for name, p in flow.named_parameters()}
        given = torch.func.functional_call(flow, state, (x, context))
        other = make()
        other.load_state_dict(state)
        torch.testing.assert_close(given, other(x, context))
        torch.testing.assert_close(flow(x, context), right(flow, 3)[0])


def test_gradients_of_one_argument_alone():
    """With fixed parameters a gradient of the context may be wanted all the same."""
    flow = make().requires_grad_(False)
    x, context = arguments(flow, 3)
    right(flow, 3)
    context.requires_grad_()
    flow(x, context).sum().backward()
    assert context.grad.abs().max() > 0


def test_autocast_lowers_hidden_products():
    flow = make()
    x, context = arguments(flow, 3)
    exact = right(flow, 3)[0]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = flow(x, context)
    assert 1e-5 < (lowered - exact).abs().max() < 0.5


def test_dropped_contexts():
    flow = make(context_dropout=0.9)
    x, context = arguments(flow, 64)
    kept = right(flow, 64)[0]
    with torch.no_grad():
        assert (flow.train()(x, context) != kept).float().mean() > 0.5
        torch.testing.assert_close(flow.eval()(x, context), kept)


def test_results_that_are_not_finite():
    flow = make()
    x, context = arguments(flow, 3)
    right(flow, 3)
    x[1] = float("inf")
    actual, expected = both_ways(flow, "log_prob", x, context)
    torch.testing.assert_close(actual[0], expected[0], equal_nan=True)
    flow.norm2_bias.data[1, 0, 3] = float("nan")
    with torch.no_grad(), pytest.raises(ValueError, match=r"norm2_bias: expected finite .* index \[1, 0, 3\]"):
        flow(*arguments(flow, 3))


def test_copies_stand_alone():
    flow = make()
    before = right(flow, 3)[0]
    buffer = io.BytesIO()
    torch.save(flow, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(flow), torch.load(buffer, weights_only=False)):
        assert native(other) is None
        torch.testing.assert_close(right(other, 3)[0], before)
        with torch.no_grad():
            other.output_bias.add_(1)
        assert (right(other, 3)[0] - before).abs().max() > 0.1
        torch.testing.assert_close(right(flow, 3)[0], before)


def test_float64_and_back():
    flow = make()
    before = right(flow, 3)[0]
    x, context = arguments(flow, 3)
    with torch.no_grad():
        exact = flow.double()(x.double(), context.double())
    assert native_reasons(flow) == ["dtype torch.float64: it takes float32, bfloat16 and int8"]
    torch.testing.assert_close(exact.float(), before, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(right(flow.float(), 3)[0], before)


def test_the_paper_flow():
    flow = flows.make_flow("paper", torch.float32)
    x, context = torch.randn(5, flow.features), torch.randn(5, flow.context_features)
    for which in MAPS:
        for a, e in zip(*both_ways(flow, which, x, context), strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4 * float(1 + e.abs().max()))
