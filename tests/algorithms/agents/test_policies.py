"""Policies frozen for acting: the actions of their agents, in the data's units, by native calls where possible."""

import functools

import numpy as np
import pytest
import torch
from support.boxes import scripted
from support.small_agents import SMALL, act, make_agent

from nfkern.algorithms.agents.policy import FlowPolicy
from nfkern.algorithms.agents.registry import AGENTS, load_policy, save_agent
from nfkern.algorithms.data import BatchSampler
from nfkern.flows.native_calls import native_reasons
from nfkern.numerics import perturb

FLOWS = ("nf_bc", "nf_gcbc", "nf_rlbc", "nf_bc_causal", "nf_gcbc_causal")


def perturbed(agent):
    """An agent whose every weight matters, and whose normalisers and bounds do something."""
    networks = (agent.networks, *([] if agent.ema is None else [agent.ema.module]))
    for number, flow in enumerate(each["flow"] for each in networks if "flow" in each):
        perturb(flow, torch.Generator().manual_seed(number))
    numbers = torch.Generator().manual_seed(2)
    for normalizer in (agent.observation_normalizer, agent.action_normalizer):
        normalizer.center.copy_(torch.randn(normalizer.center.shape, generator=numbers))
        normalizer.scale.copy_(torch.rand(normalizer.scale.shape, generator=numbers) + 0.5)
    agent.action_low.copy_(torch.tensor([-0.5, -1.0]))
    agent.action_high.copy_(torch.tensor([2.0, 1.5]))
    return agent


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in FLOWS),
        ("nf_bc", {"history": 3, "chunk": 4, "execute": 2, "ema_decay": 0.9}),
        ("nf_bc_causal", {"history": 3, "chunk": 4, "execute": 2, "ema_decay": 0.9}),
        ("nf_gcbc", {"denoise": False}),
        ("nf_rlbc", {"inverted": False}),
    ],
)
def test_a_frozen_policy_acts_as_its_agent(name, options):
    agent = perturbed(make_agent(name, **options))
    policy = agent.freeze()
    assert isinstance(policy, FlowPolicy)
    expected, found = act(agent, 25), act_frozen(agent, policy, 25)
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    # Sums of some hundred terms of size one, added in another order, with LayerNorm's weights in the next layer's.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    clipped = (expected == agent.action_low.numpy()) | (expected == agent.action_high.numpy())
    assert 0 < clipped.mean() < 1
    if name in ("nf_bc", "nf_gcbc") or "inverted" in options:
        assert native_reasons(policy.flow) == []


def act_frozen(agent, policy, rows):
    """`act` of small_agents, whose batch depends on the agent's settings."""
    agent.act, before = policy.act, agent.act
    try:
        return act(agent, rows)
    finally:
        del agent.act
        assert agent.act == before


@pytest.mark.parametrize("name", [name for name in SMALL if name not in FLOWS])
def test_agents_without_a_flow_act_themselves(name):
    agent = make_agent(name)
    assert agent.freeze() is agent


def test_a_policy_keeps_its_weights_while_training_goes_on():
    agent = perturbed(make_agent("nf_bc"))
    policy = agent.freeze()
    before = act_frozen(agent, policy, 5)
    perturb(agent.networks["flow"], torch.Generator().manual_seed(5))
    np.testing.assert_array_equal(act_frozen(agent, policy, 5), before)
    assert not np.allclose(act(agent), before)


def test_a_checkpoint_acts_in_the_units_of_its_data(tmp_path):
    dataset = scripted("pixels", episodes=20)
    config = AGENTS["nf_bc"].config_class(**SMALL["nf_bc"], observation_normalization="min_max")
    example = BatchSampler(dataset, 1).sample()
    agent = AGENTS["nf_bc"].create(config, example, dataset.statistics())
    save_agent(agent, tmp_path)
    policy = functools.partial(load_policy, tmp_path)()
    observations = dataset.observations[:30, None]
    expected = agent.act(observations, generator=torch.Generator().manual_seed(1))
    found = policy.act(observations, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * 512)
    assert found.std() > 10


def test_wrong_inputs_are_named():
    policy = make_agent("nf_gcbc").freeze()
    with pytest.raises(ValueError, match=r"observations: expected shape \(4, 1, 3\), got \(4, 3\)"):
        policy.act(np.zeros((4, 3), np.float32), np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match="goals: expected an array"):
        policy.act(np.zeros((4, 1, 3), np.float32))
    with pytest.raises(ValueError, match="expected finite numbers"):
        policy.act(np.full((4, 1, 3), np.nan, np.float32), np.zeros((4, 3), np.float32))
