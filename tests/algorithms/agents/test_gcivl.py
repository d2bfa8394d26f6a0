"""GCIVL against formulas written out here, with known values and averages."""

import pytest
import torch
from support.critics import GAMMA, ROWS, Fixed, expected_value_loss, reached_by
from support.small_agents import make_agent, make_batch

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data import GoalSampling


def values(observations, goals):
    """Two values of an observation and a goal (batch, 3) each."""
    return torch.stack([observations[:, 0] - goals[:, 1], 2 * observations[:, 1] - observations[:, 0] * goals[:, 0]])


def averages(observations, goals):
    return values(observations, goals) * torch.tensor([[0.7], [1.2]]) + torch.tensor([[0.5], [-0.3]])


def prepare(**options):
    agent = make_agent("gcivl", gamma=GAMMA, **options)
    agent.networks["value"] = Fixed(lambda pairs: values(pairs[:, :3], pairs[:, 3:]))
    agent.ema.module["value"] = Fixed(lambda pairs: averages(pairs[:, :3], pairs[:, 3:]))
    agent.networks["policy"] = Fixed(lambda inputs: 0.9 * inputs[:, :2] - 0.4 * inputs[:, 3:5])
    return agent, agent.tensors(make_batch(agent.config, ROWS))


@pytest.mark.parametrize("expectile", [0.1, 0.9])
def test_values_are_expectiles_of_what_the_averages_say(expectile):
    agent, batch = prepare(expectile=expectile)
    expected = expected_value_loss(batch, expectile, values, averages)
    torch.testing.assert_close(agent(batch, ())[1]["value/loss"], expected)


def test_actions_are_weighed_by_how_much_nearer_they_lead():
    agent, batch = prepare(alpha=3.0)
    here, following, goals = (batch[key] for key in ("observations", "next_observations", "actor_goals"))
    advantage = values(following, goals).mean(0) - values(here, goals).mean(0)
    weight = (3 * advantage).exp().clamp(max=100)
    assert (weight == 100).any()
    mean = 0.9 * here[:, :2] - 0.4 * goals[:, :2]
    density = torch.distributions.Normal(mean, 1.0).log_prob(batch["actions"]).sum(1)
    torch.testing.assert_close(agent(batch, ())[1]["actor/loss"], -(weight * density).mean())


def test_each_part_reaches_its_own_networks():
    agent = make_agent("gcivl")
    parts = agent._losses(agent.tensors(make_batch(agent.config)))
    reached = {name: reached_by(loss, agent) for name, (loss, _) in parts.items()}
    assert reached == {"value": {"value"}, "actor": {"policy"}}
    assert all(each.grad is None for each in agent.ema.parameters())


@pytest.mark.slow
def test_a_high_expectile_looks_on_the_bright_side():
    ends = []
    for expectile in (0.1, 0.9):
        agent = make_agent("gcivl", expectile=expectile, gamma=0.0, tau=0.5, learning_rate=3e-3)
        # One state and goal, two outcomes.
        batch = {key: 0 * each[:1].repeat(64, 0) for key, each in make_batch(agent.config).items()}
        batch["rewards"][::2] = 1.0
        for _ in range(300):
            info = agent.update(batch)
        ends.append(info["value/v_mean"].item())
    # With one in two of 0 and 1, the expectile is its own share.
    assert ends == pytest.approx([0.1, 0.9], abs=0.02)


@pytest.mark.parametrize("name", ["gcivl", "hiql"])
def test_targets_move_by_tau(name):
    agent = make_agent(name, tau=0.25)
    weights = []
    for _ in range(3):
        agent.update(make_batch(agent.config))
        weights.append(agent.networks["value"].weights[0].clone())
    # The first update copies; each later one moves a quarter of the way.
    expected = 0.75 * (0.75 * weights[0] + 0.25 * weights[1]) + 0.25 * weights[2]
    torch.testing.assert_close(agent.ema.module["value"].weights[0].data, expected.data)
    assert set(agent.ema.module) == {"value"}


@pytest.mark.parametrize("name", ["gcivl", "hiql"])
def test_goals_and_settings(name):
    batches = make_agent(name, gamma=0.9, actor_random_goals=0.25).config.batches()
    assert batches["goals"] == GoalSampling(0.2, 0.5, 0.3, gamma=0.9)
    assert batches["actor_goals"] == GoalSampling(p_trajectory=0.75, p_random=0.25)
    assert batches["next_observations"]
    for options, message in (
        ({"alpha": -1.0}, "alpha: expected at least 0"),
        ({"gamma": 1.0}, "gamma: expected a number in|gamma must lie in"),
        ({"tau": 0.0}, "tau: expected a number in"),
        ({"expectile": 1.0}, "expectile: expected a number in"),
        ({"actor_random_goals": -0.5}, "actor_random_goals: expected at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make_agent(name, **options)


def test_presets_are_ogbenchs():
    for name, preset in AGENTS["gcivl"].presets.items():
        assert (preset.config.alpha, preset.config.expectile, preset.config.batch_size) == (10.0, 0.9, 1024)
        assert preset.config.gamma == (0.995 if name.startswith("humanoidmaze") else 0.99)
        assert preset.config.actor_random_goals == (0.5 if name.endswith("stitch") else 0.0)
