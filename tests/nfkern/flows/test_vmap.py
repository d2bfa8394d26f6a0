"""Several flows at once: `torch.vmap` of `functional_call` over stacked parameters is each flow's own result."""

import pytest
import torch
from support import flows
from torch.func import functional_call, stack_module_state
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nfkern import CouplingFlow, use_reference


def stacked(name, seeds=3):
    """Some flows, their stacked state, and inputs and noise for each."""
    members = [flows.make_flow(name, seed=seed).eval() for seed in range(seeds)]
    params, buffers = stack_module_state(members)
    state = params | buffers
    inputs = [flows.make_inputs(flow, 4, seed=seed) for seed, flow in enumerate(members)]
    x = torch.stack([x for x, _ in inputs])
    context = None if inputs[0][1] is None else torch.stack([context for _, context in inputs])
    return members, state, x, context


class Call(torch.nn.Module):
    """A method of a flow as the call that functional_call makes."""

    def __init__(self, flow, method):
        super().__init__()
        self.flow, self.method = flow, method

    def forward(self, x, context):
        return self.method(self.flow, x, context)


METHODS = {
    "log_prob": lambda flow, x, context: flow(x, context),
    "to_latent": lambda flow, x, context: flow.to_latent(x, context),
    "sample": lambda flow, x, context: flow.sample((), context, noise=x),
    "score": lambda flow, x, context: flow.score(x, context),
    "denoised": lambda flow, x, context: flow.sample_denoised(0.1, (), context, noise=x),
}


NAMES = ["paper", "inverted", "permuted", "scale_bound", "tanh_bounds", "odd_features"]
# A bounded flow has no denoised sample.
CASES = [(name, method) for name in NAMES for method in METHODS if (name, method) != ("tanh_bounds", "denoised")]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_stack_of_flows_equals_its_members(name, method):
    members, state, x, context = stacked(name)
    call = Call(members[0], METHODS[method])
    state = {f"flow.{key}": value for key, value in state.items()}
    actual = torch.vmap(lambda *args: functional_call(call, args[0], args[1:]))(state, x, context)
    for seed, flow in enumerate(members):
        expected = METHODS[method](flow, x[seed], context[seed])
        of_seed = actual[seed] if isinstance(actual, torch.Tensor) else tuple(each[seed] for each in actual)
        torch.testing.assert_close(of_seed, expected, rtol=1e-11, atol=1e-11)


def test_gradients_of_the_sum_are_each_members_own():
    members, state, x, context = stacked("paper")
    leaves = {key: value.detach().requires_grad_(value.is_floating_point()) for key, value in state.items()}
    torch.vmap(lambda *args: functional_call(members[0], args[0], args[1:]))(leaves, x, context).sum().backward()
    for seed, flow in enumerate(members):
        flow(x[seed], context[seed]).sum().backward()
        for key, parameter in flow.named_parameters():
            torch.testing.assert_close(leaves[key].grad[seed], parameter.grad, rtol=1e-11, atol=1e-11)


ROWS = {
    "log_prob": lambda flow, x, context: flow.log_prob(x, context),
    "to_latent": lambda flow, x, context: flow.to_latent(x, context)[0],
    "to_data": lambda flow, x, context: flow.to_data(x, context)[0],
    "score": lambda flow, x, context: flow.score(x, context),
    "denoised": lambda flow, x, context: flow.sample_denoised(0.1, (), context, noise=x),
}
# Batch shapes of events and contexts, which of them is mapped, and where.
MAPPED = {
    "both": ((4,), (4,), (0, 0)),
    "events": ((4,), (), (0, None)),
    "contexts": ((), (4,), (None, 0)),
    "rows of each": ((4, 3), (4, 3), (0, 0)),
    "rows in groups": ((4, 2, 3), (4, 2, 1), (0, 0)),
    "rows of shared groups": ((4, 2, 3), (2, 1), (0, None)),
    "second dimension": ((3, 4), (3, 4), (1, 1)),
}


def tensors(flow, mapped):
    events, contexts, dims = MAPPED[mapped]
    x = torch.randn(*events, *flow.event_shape, dtype=torch.float64)
    return (x, torch.randn(*contexts, flow.context_features, dtype=torch.float64)), dims


# Noise has the batch shape of contexts.
BY_ROW = [(m, mapped) for m in ROWS for mapped in MAPPED if m != "denoised" or "group" not in mapped]


@pytest.mark.parametrize(("method", "mapped"), BY_ROW)
@pytest.mark.parametrize("name", ["paper", "inverted", "causal_published", "causal_prefix"])
def test_rows_of_one_flow_equal_single_calls(name, method, mapped):
    flow = flows.make(name).eval()
    inputs, dims = tensors(flow, mapped)
    actual = torch.vmap(lambda *row: ROWS[method](flow, *row), dims)(*inputs)
    for place in range(4):
        row = [each if dim is None else each.select(dim, place) for each, dim in zip(inputs, dims, strict=True)]
        torch.testing.assert_close(actual[place], ROWS[method](flow, *row), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mapped", list(MAPPED))
@pytest.mark.parametrize("name", ["paper", "causal_prefix"])
def test_gradients_of_rows_of_one_flow(name, mapped):
    flow = flows.make(name).eval()
    inputs, dims = tensors(flow, mapped)
    inputs = [each.requires_grad_() for each in inputs]
    wanted = [*inputs, *flow.parameters()]
    actual = torch.autograd.grad(torch.vmap(flow.log_prob, dims)(*inputs).sin().sum(), wanted)
    rows = [
        flow.log_prob(*(e if dim is None else e.select(dim, place) for e, dim in zip(inputs, dims, strict=True)))
        for place in range(4)
    ]
    expected = torch.autograd.grad(torch.stack(rows).sin().sum(), wanted)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def products(call):
    """Calls of matrix products."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    names = ("aten::bmm", "aten::baddbmm", "aten::addmm", "aten::mm")
    return sum(event.count for event in profile.key_averages() if event.key in names)


@pytest.mark.slow
@pytest.mark.parametrize("mapped", ["both", "events"])
@pytest.mark.parametrize("method", ["log_prob", "to_data", "score"])
@pytest.mark.parametrize("name", ["paper", "causal_one_block"])
def test_rows_of_one_flow_take_as_many_products_as_a_batch(name, method, mapped):
    flow = flows.make(name).eval()
    inputs, dims = tensors(flow, mapped)
    with torch.no_grad(), use_reference():
        batch = products(lambda: ROWS[method](flow, *inputs))
        rows = products(lambda: torch.vmap(lambda *row: ROWS[method](flow, *row), dims)(*inputs))
    # A batch's score keeps hidden units, which rows that are added compute again.
    assert rows <= (1.5 if method == "score" else 1) * batch


class Largest(TorchDispatchMode):
    """Notes the largest tensor that an operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(results) if isinstance(each, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return results


def test_gradients_row_by_row_copy_no_weights():
    flow = CouplingFlow(6, 5, blocks=2, hidden=(64, 64))
    x, context = torch.randn(64, 6), torch.randn(64, 5)
    with Largest() as made:
        by_row = torch.vmap(torch.func.grad(flow.log_prob))(x, context)
    assert made.numel < 64 * flow.hidden_weight[0].numel() // 2
    torch.testing.assert_close(by_row, torch.func.grad(lambda x: flow.log_prob(x, context).sum())(x))
