"""FlowAdamW against torch.optim.AdamW: the same numbers, without the gradient of the hidden weights."""

import copy

import flows
import pytest
import torch

import nfkern
from nfkern.optim import FlowAdamW

OPTIONS = {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-7, "weight_decay": 0.1}


def trained(fused, loss, name="paper", steps=10, dtype=torch.float64, schedule=False):
    """A flow and an encoder after some steps of one optimiser or the other."""
    flow = flows.make_flow(name, dtype)
    encoder = torch.nn.Linear(5, 5).to(dtype)
    others = list(encoder.parameters())
    optimizer = (
        FlowAdamW(flow, others, **OPTIONS) if fused else torch.optim.AdamW([*flow.parameters(), *others], **OPTIONS)
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if schedule else None
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x, context = (torch.randn(9, size, generator=generator, dtype=dtype) for size in (flow.features, 5))
        optimizer.zero_grad()
        loss(flow, x, encoder(context))
        if fused:
            assert flow.hidden_weight.grad is None
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return {**dict(flow.named_parameters()), **dict(encoder.named_parameters())}


def likelihood(flow, x, context):
    (-flow(x, context).mean()).backward()


def sampling(flow, x, context):
    sample, log_prob = flow.rsample_and_log_prob((), context, noise=x)
    (sample.square().mean() + log_prob.mean()).backward()


def in_two_parts(flow, x, context):
    for rows in (slice(0, 4), slice(4, None)):
        (-flow(x[rows], context[rows]).sum()).backward(retain_graph=True)


@pytest.mark.parametrize("loss", [likelihood, sampling, in_two_parts])
@pytest.mark.parametrize("name", ["paper", "inverted", "unequal_hidden", "scale_bound"])
def test_equals_torchs_adamw(name, loss):
    expected, actual = trained(False, loss, name), trained(True, loss, name)
    for key, value in expected.items():
        # Adam divides by the gradient's size, so rounding of 1e-16 in gradients that cancel to 1e-9 shows as 1e-7.
        torch.testing.assert_close(actual[key], value, rtol=1e-7, atol=1e-8, msg=key)


def test_follows_a_schedule():
    expected, actual = trained(False, likelihood, schedule=True), trained(True, likelihood, schedule=True)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-7, atol=1e-8, msg=key)


def test_state_is_saved_and_restored():
    flow = flows.make_flow("paper")
    x, context = flows.make_inputs(flow, 6)
    optimizer = FlowAdamW(flow, **OPTIONS)
    likelihood(flow, x, context)
    optimizer.step()
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(flow.state_dict())
    optimizer.zero_grad()
    likelihood(flow, x, context)
    optimizer.step()
    other = flows.make_flow("paper")
    other.load_state_dict(weights)
    again = FlowAdamW(other, **OPTIONS)
    again.load_state_dict(state)
    likelihood(other, x, context)
    again.step()
    for name, value in flow.named_parameters():
        assert torch.equal(dict(other.named_parameters())[name], value), name


def test_zero_grad_forgets_factors():
    flow = flows.make_flow("paper")
    x, context = flows.make_inputs(flow, 6)
    optimizer = FlowAdamW(flow, **OPTIONS)
    before = flow.hidden_weight.detach().clone()
    likelihood(flow, x, context)
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(flow.hidden_weight, before)


def test_leaves_a_frozen_norm_alone():
    flow = flows.make_flow("paper")
    flow.norm1_weight.requires_grad_(False)
    x, context = flows.make_inputs(flow, 6)
    optimizer = FlowAdamW(flow, **OPTIONS)
    norm, hidden = flow.norm1_weight.detach().clone(), flow.hidden_weight.detach().clone()
    likelihood(flow, x, context)
    optimizer.step()
    assert torch.equal(flow.norm1_weight, norm)
    assert not torch.equal(flow.hidden_weight, hidden)


def test_a_step_uses_its_factors_up():
    flow = flows.make_flow("paper")
    x, context = flows.make_inputs(flow, 6)
    optimizer = FlowAdamW(flow, **OPTIONS)
    likelihood(flow, x, context)
    optimizer.step()
    before = flow.hidden_weight.detach().clone(), flow.norm1_weight.detach().clone()
    # Without a backward pass between them, the second step has nothing for either.
    optimizer.step()
    assert torch.equal(flow.hidden_weight, before[0])
    assert torch.equal(flow.norm1_weight, before[1])


def test_the_learning_rate_may_be_a_tensor():
    results = []
    for rate in (0.01, torch.tensor(0.01, dtype=torch.float64)):
        flow = flows.make_flow("paper")
        x, context = flows.make_inputs(flow, 6)
        optimizer = FlowAdamW(flow, **OPTIONS | {"lr": rate})
        likelihood(flow, x, context)
        optimizer.step()
        results.append(dict(flow.named_parameters()))
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, msg=name)


def test_detached_flows_record_gradients_again():
    flow = flows.make_flow("paper")
    x, context = flows.make_inputs(flow, 6)
    optimizer = FlowAdamW(flow)
    likelihood(flow, x, context)
    assert flow.hidden_weight.grad is None
    optimizer.detach()
    likelihood(flow, x, context)
    assert flow.hidden_weight.grad is not None


def test_copies_belong_to_no_optimiser():
    flow = flows.make_flow("paper")
    FlowAdamW(flow)
    assert copy.deepcopy(flow).take_factors is None


def test_refuses_what_it_cannot_train():
    flow = flows.make_flow("paper")
    FlowAdamW(flow)
    with pytest.raises(ValueError, match="flow: expected one without a FlowAdamW"):
        FlowAdamW(flow)
    frozen = nfkern.CouplingFlow(4, 3, blocks=1, hidden=(8, 8)).requires_grad_(False)
    with pytest.raises(ValueError, match="flow: expected trained hidden weights"):
        FlowAdamW(frozen)
