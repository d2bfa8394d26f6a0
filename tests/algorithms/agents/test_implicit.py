"""Agents with an implicit value, IQL, IFQL and GCIQL, against formulas written out here."""

import numpy as np
import pytest
import torch
from support.critics import GAMMA, Fixed, critics_at, expected_critic_loss, prepare, target_critics
from support.small_agents import act, make_agent, make_batch


@pytest.mark.parametrize("name", ["iql", "ifql"])
def test_implicit_values_are_expectiles_of_the_target(name):
    agent, batch, noise = prepare(name, expectile=0.8)
    agent.networks["value"] = Fixed(lambda inputs: 0.5 * inputs[:, :1])
    info = agent(batch, noise)[1]
    above = (
        critics_at(batch["observations"], batch["actions"], target_critics).amin(0) - 0.5 * batch["observations"][:, 0]
    )
    weight = torch.where(above > 0, 0.8, 0.2)
    torch.testing.assert_close(info["value/loss"], (weight * above**2).mean())
    expected = expected_critic_loss(batch, 0.5 * batch["next_observations"][:, 0])
    torch.testing.assert_close(info["critic/loss"], expected)


def test_iql_weighs_actions_by_advantage():
    agent, batch, noise = prepare("iql", alpha=3.0)
    agent.networks["value"] = Fixed(lambda inputs: 0.5 * inputs[:, :1])
    agent.networks["policy"] = Fixed(lambda inputs: 0.2 * inputs[:, :2])
    states, actions = batch["observations"], batch["actions"]
    advantage = critics_at(states, actions).amin(0) - 0.5 * states[:, 0]
    weight = (3 * advantage).exp().clamp(max=100)
    assert (weight == 100).any()
    density = torch.distributions.Normal(0.2 * states[:, :2], 1.0).log_prob(actions).sum(1)
    torch.testing.assert_close(agent(batch, noise)[1]["actor/loss"], -(weight * density).mean())


def test_ifql_acts_with_the_best_of_its_candidates():
    agent, _, _ = prepare("ifql", candidates=8, flow_steps=1)
    agent.networks["velocity"] = Fixed(lambda inputs: 0 * inputs[:, 3:5])
    noise = torch.randn(5 * 8, 2, generator=torch.Generator().manual_seed(0)).clamp(-1, 1).reshape(5, 8, 2)
    states = torch.from_numpy(make_batch(agent.config, 5)["observations"])
    q = torch.stack([critics_at(states, noise[:, k]).amin(0) for k in range(8)], 1)
    expected = noise[torch.arange(5), q.argmax(1)]
    np.testing.assert_allclose(act(agent)[:, 0], expected.numpy())


def test_gciql_values_its_goals_and_acts_for_others():
    agent, batch, noise = prepare("gciql", alpha=0.4, expectile=0.8)
    agent.networks["value"] = Fixed(lambda inputs: 0.5 * inputs[:, :1] - inputs[:, 3:4])
    agent.networks["policy"] = Fixed(lambda inputs: 0.2 * inputs[:, :2] + 0.1 * inputs[:, 3:5])
    states = torch.cat([batch["observations"], batch["goals"]], 1)
    info = agent(batch, noise)[1]
    above = critics_at(states, batch["actions"], target_critics).amin(0) - (0.5 * states[:, 0] - states[:, 3])
    torch.testing.assert_close(info["value/loss"], (torch.where(above > 0, 0.8, 0.2) * above**2).mean())
    q = critics_at(states, batch["actions"])
    target = batch["rewards"] + GAMMA * batch["masks"] * (0.5 * batch["next_observations"][:, 0] - batch["goals"][:, 0])
    torch.testing.assert_close(info["critic/loss"], (q - target).square().mean())
    actor_states = torch.cat([batch["observations"], batch["actor_goals"]], 1)
    mean = 0.2 * actor_states[:, :2] + 0.1 * actor_states[:, 3:5]
    value = critics_at(actor_states, mean.clamp(-1, 1)).amin(0)
    density = torch.distributions.Normal(mean, 1.0).log_prob(batch["actions"]).sum(1).mean()
    expected = -value.mean() / value.abs().mean() - 0.4 * density
    torch.testing.assert_close(info["actor/loss"], expected, rtol=1e-4, atol=1e-5)


def test_gciql_draws_goals_as_ogbench_does():
    config = make_agent("gciql", gamma=0.9, actor_random_goals=0.25).config
    critics, policy = config.batches()["goals"], config.batches()["actor_goals"]
    assert (critics.p_current, critics.p_trajectory, critics.p_random, critics.gamma) == (0.2, 0.5, 0.3, 0.9)
    assert (policy.p_current, policy.p_trajectory, policy.p_random, policy.gamma) == (0.0, 0.75, 0.25, None)
    with pytest.raises(ValueError, match="p_current, p_trajectory and p_random must be >= 0"):
        make_agent("gciql", actor_random_goals=1.5).config.batches()
