"""The naive flow, which every gate trusts, against autograd's Jacobian; and it against nfkern's flow."""

from functools import partial

import pytest
import torch

from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.problems.causal_problem import random_causal_flow
from nfkern.bench.problems.eager import EagerFlow
from nfkern.bench.problems.eager_causal import EagerCausalFlow
from nfkern.bench.problems.flow_problem import random_flow
from nfkern.bench.works.flow_works import FLOW_WORKS

SHAPES = {
    "two_features": FlowCase("two_features", features=2, context_features=3, hidden=(8, 8), blocks=2),
    "odd_features": FlowCase("odd_features", features=5, context_features=4, hidden=(16, 8), blocks=3),
    "even_features": FlowCase("even_features", features=6, context_features=1, hidden=(8, 16), blocks=2, norm_eps=1e-6),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def exact(request):
    case = request.param
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, case.features, generator=generator, dtype=torch.float64)
    context = torch.randn(4, case.context_features, generator=generator, dtype=torch.float64)
    flow = random_flow(case)
    return flow, EagerFlow.like(flow, torch.float64), x, context


@pytest.mark.parametrize("direction", ["to_latent", "to_data"])
def test_log_det_is_that_of_the_jacobian(exact, direction):
    _, eager, x, context = exact
    function = getattr(eager, direction)
    _, log_det = function(x, context)
    for row, its_context, expected in zip(x, context, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(partial(one_event, function, its_context), row)
        torch.testing.assert_close(expected, torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=1e-10)


def one_event(function, context, x):
    return function(x[None], context[None])[0][0]


def test_inverse_undoes_the_density_direction(exact):
    _, eager, x, context = exact
    z, log_det = eager.to_latent(x, context)
    back, inverse_log_det = eager.to_data(z, context)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-10)


def test_log_prob_has_the_base_of_torch_distributions(exact):
    _, eager, x, context = exact
    z, log_det = eager.to_latent(x, context)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(eager.log_prob(x, context), base + log_det, rtol=0, atol=1e-12)


def test_copied_weights_are_the_same_function(exact):
    flow, eager, x, context = exact
    torch.testing.assert_close(flow.double().log_prob(x, context), eager.log_prob(x, context), rtol=0, atol=1e-10)


def test_last_layers_start_at_zero():
    eager = EagerFlow(5, 3, blocks=2, hidden=(8, 8))
    for block in eager.blocks:
        assert torch.equal(block.shift(torch.randn(3, 6)), torch.zeros(3, 2))
        assert torch.equal(block.log_scale(torch.randn(3, 6)), torch.zeros(3, 2))


def test_gradients_are_named_and_shaped_as_the_parameters():
    flow = random_flow(CASES["tiny"])
    eager = EagerFlow.like(flow)
    eager.log_prob(torch.randn(4, 3), torch.randn(4, 4)).sum().backward()
    assert {name: value.shape for name, value in eager.gradients().items()} == {
        name: value.shape for name, value in flow.named_parameters()
    }


def test_compared_derivatives_are_taken_away_from_kinks():
    work = next(work for work in FLOW_WORKS if work.name == "denoised_action")
    problem = work.prepare(CASES["tiny"], 50, torch.device("cpu"))
    eager = EagerFlow.like(problem.flow, torch.float64)
    nearest = [eager.kink_distance(eager.to_data, z.double(), c.double()).min() for z, c in problem.inputs]
    assert min(nearest) >= 2e-5


def test_the_causal_flow_does_not_multiply_the_token_that_moves_no_other():
    """No rival does."""
    flow, lengths = random_causal_flow(CASES["causal_tiny"]), []
    eager = EagerCausalFlow.like(flow)
    for block in eager.blocks:
        block.layers[0].register_forward_pre_hook(lambda layer, inputs: lengths.append(inputs[0].shape[1]))
    x, context = torch.randn(2, 4, 3), torch.randn(2, 4)
    torch.testing.assert_close(eager.log_prob(x, context), flow.log_prob(x, context))
    assert lengths == [3] * len(eager.blocks)
