"""Flows of one feature: a Gaussian given the context, before any bounds."""

import copy

import numpy as np
import pytest
import torch
from support import flows
from torch.distributions import Normal
from torch.func import jacrev, vmap

import nfkern

EACH = {
    "plain": {},
    "inverted": {"inverted": True},
    "permuted": {"mixing": "permute"},
    "scale_bound": {"scale_bound": 0.5},
    "unconditional": {"context_features": 0},
    "tanh": {"bounds": "tanh"},
    "box": {"bounds": (-2, 3)},
}
every = pytest.mark.parametrize("name", EACH)


def make(name, dtype=torch.float64):
    flow = flows.make_flow("paper", dtype, features=1, **EACH[name]).eval()
    x, context = flows.make_inputs(flow, 7)
    return flow, x, context


@every
def test_the_density_is_that_of_a_gaussian(name):
    flow, x, context = make(name)
    mean = flow.to_data(torch.zeros_like(x), context)[0]
    scale = flow.to_data(torch.ones_like(x), context)[0] - mean
    if flow.bounds is None:
        torch.testing.assert_close(flow.log_prob(x, context), Normal(mean, scale).log_prob(x)[:, 0])
    z, log_det = flow.to_latent(x, context)
    torch.testing.assert_close(flow.to_data(z, context)[0], x)
    jacobian = vmap(jacrev(lambda x, c: flow.to_latent(x, c)[0]), in_dims=(0, None if context is None else 0))
    torch.testing.assert_close(jacobian(x, context).abs().log().flatten(), log_det)
    (expected,) = torch.autograd.grad(flow.log_prob(x.requires_grad_(), context).sum(), x)
    torch.testing.assert_close(flow.score(x, context), expected)


@every
def test_every_call_of_other_flows(name, tmp_path):
    flow, _, context = make(name)
    policy = flow.condition(context)
    x, log_prob = policy.rsample_and_log_prob((5,))
    assert x.shape == (5, *policy.batch_shape, 1)
    torch.testing.assert_close(policy.log_prob(x), log_prob)
    if flow.bounds is None:
        assert policy.sample_denoised(0.1, (5,)).shape == x.shape
    flow.save_pretrained(tmp_path / "flow")
    again = nfkern.CouplingFlow.from_pretrained(tmp_path / "flow").eval()
    torch.testing.assert_close(again.log_prob(x, context), log_prob)
    torch.testing.assert_close(copy.deepcopy(flow).log_prob(x, context), log_prob)
    single = again.float()
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        frozen = single.freeze(dtype)
        found = frozen.log_prob(x.float(), None if context is None else context.float())
        tolerance = 1e-3 if dtype == torch.float32 else 0.3
        torch.testing.assert_close(found.double(), log_prob.detach(), rtol=tolerance, atol=tolerance)
        if context is not None:
            assert frozen.act(context.float().numpy()).shape == (7, 1)


@pytest.mark.parametrize("bounds", [None, "tanh", (-2.0, 3.0)])
def test_it_learns(bounds):
    torch.manual_seed(0)
    flow = nfkern.CouplingFlow(1, 1, blocks=2, hidden=(16, 16), bounds=bounds)
    optimizer = nfkern.optim.FlowAdamW(flow, lr=1e-2)
    for _ in range(150):
        context = torch.rand(256, 1)
        loss = -flow(0.8 * context + 0.05 * torch.randn(256, 1), context).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # The entropy of such noise is -1.58 nats.
    assert loss.item() < -1.3
    actions = flow.freeze().act(np.full((500, 1), 0.5, np.float32))
    assert abs(actions.mean() - 0.4) < 0.05
