"""The naive flows, which gates and the flows' tests trust, against autograd's Jacobian and PyTorch's own layers."""

import pytest
import torch
from support import flows

from nfkern.bench.core.cases import CASES
from nfkern.bench.problems.eager import EagerFlow
from nfkern.bench.problems.eager_causal import EagerCausalFlow, Layer
from nfkern.bench.problems.flow_problem import random_causal_flow
from nfkern.bench.registry import WORKS
from nfkern.bench.works.flow_works import naive


@pytest.fixture(params=flows.EVERY)
def exact(request):
    flow = flows.make(request.param).eval()
    return naive(flow, torch.float64), *flows.make_inputs(flow, 4)


def test_log_det_is_that_of_the_jacobian(exact):
    flow, x, context = exact
    _, log_det = flow.to_latent(x, context)
    for row, expected in enumerate(log_det):
        given = None if context is None else context[row : row + 1]
        jacobian = torch.autograd.functional.jacobian(
            lambda one, given=given: flow.to_latent(one, given)[0], x[row:][:1]
        )
        matrix = jacobian.reshape(x[0].numel(), -1)
        torch.testing.assert_close(expected, torch.linalg.slogdet(matrix).logabsdet, rtol=0, atol=1e-10)


def test_inverse_undoes_the_density_direction(exact):
    flow, x, context = exact
    z, log_det = flow.to_latent(x, context)
    back, inverse_log_det = flow.to_data(z, context)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-10)


def test_log_prob_has_the_base_of_torch_distributions(exact):
    flow, x, context = exact
    z, log_det = flow.to_latent(x, context)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(flow.log_prob(x, context), base + log_det, rtol=0, atol=1e-12)


def test_a_layer_is_pytorchs():
    """Published: a pre-norm transformer."""
    layer, x = Layer(16, 2, 64, 1e-6).double(), torch.randn(3, 5, 16, dtype=torch.float64)
    options = {"dropout": 0.0, "activation": "gelu", "layer_norm_eps": 1e-6, "norm_first": True, "batch_first": True}
    theirs = torch.nn.TransformerEncoderLayer(16, 2, 64, **options).double()
    names = {
        **{"self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "projection.", "linear1.": "up.", "linear2.": "down."},
        **{"norm1.": "attention_norm.", "norm2.": "mlp_norm."},
    }
    state = layer.state_dict()
    theirs.load_state_dict(
        {there + part: state[here + part] for there, here in names.items() for part in ("weight", "bias")}
    )
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5, dtype=x.dtype)
    torch.testing.assert_close(layer(x), theirs(x, mask), rtol=0, atol=1e-12)


def test_compared_derivatives_are_taken_away_from_kinks():
    problem = WORKS["denoised_action"].prepare(CASES["tiny"], 50, torch.device("cpu"))
    flow = EagerFlow.like(problem.flow, torch.float64)
    nearest = [flow.kink_distance(flow.to_data, z.double(), c.double()).min() for z, c in problem.inputs]
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
