"""Several flows at once: `torch.vmap` of `functional_call` over stacked parameters is each flow's own result."""

import flows
import pytest
import torch
from torch.func import functional_call, stack_module_state


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
