"""A flow as the last layer of a policy."""

import copy

import pytest
import torch
from support import flows
from torch import nn

import nfkern


def test_it_has_the_flows_parameters_and_its_distribution():
    flow = flows.make_flow().eval()
    x, context = flows.make_inputs(flow, 4)
    head = nfkern.FlowHead(flow)
    assert dict(head.named_parameters()).keys() == {f"flow.{name}" for name, _ in flow.named_parameters()}
    assert isinstance(head(context), nfkern.FlowDistribution)
    assert torch.equal(head(context).log_prob(x), flow.condition(context).log_prob(x))
    other = copy.deepcopy(head)
    assert torch.equal(
        torch.func.functional_call(other, dict(head.named_parameters()), context).log_prob(x),
        flow.condition(context).log_prob(x),
    )


def test_with_an_encoder_it_takes_observations():
    flow, encoder = flows.make_flow(dtype=torch.float32), nn.Sequential(nn.Linear(9, 5), nn.Tanh())
    head, seen = nfkern.FlowHead(flow, encoder), torch.randn(4, 9)
    assert {name.partition(".")[0] for name, _ in head.named_parameters()} == {"flow", "encoder"}
    x, log_prob = head(seen).rsample_and_log_prob()
    torch.testing.assert_close(flow.log_prob(x, encoder(seen)), log_prob, rtol=1e-4, atol=1e-4)
    log_prob.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_without_a_context():
    assert nfkern.FlowHead(flows.make_flow("unconditional"))().sample((3,)).shape == (3, 6)


def test_other_arguments_are_refused():
    with pytest.raises(TypeError, match="flow: expected a flow, got Linear"):
        nfkern.FlowHead(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"encoder: expected a torch\.nn\.Module or None, got function"):
        nfkern.FlowHead(flows.make_flow(), lambda x: x)


@pytest.mark.parametrize("name", ["paper", "box", "causal_published"])
def test_the_entropy_of_samples(name):
    flow = flows.make(name).eval()
    policy = flow.condition(flows.make_inputs(flow, 3)[1])
    torch.manual_seed(0)
    found = policy.entropy(samples=4000)
    assert found.requires_grad == policy.has_rsample
    with torch.no_grad():
        surprise = -policy.log_prob(policy.sample((4000,)))
    error = surprise.std(0) / 4000**0.5
    assert ((found - surprise.mean(0)).abs() < 5 * error).all()
    with pytest.raises(ValueError, match="samples: expected an int >= 1, got 0"):
        policy.entropy(0)


def test_the_entropy_of_a_gaussian():
    flow = nfkern.CouplingFlow(3, mixing="none")
    expected = 1.5 * (1 + torch.tensor(2 * torch.pi).log())
    torch.testing.assert_close(flow.condition().entropy(20_000), expected, rtol=0, atol=0.05)
