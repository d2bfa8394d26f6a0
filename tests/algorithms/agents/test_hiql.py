"""HIQL against formulas written out here, with known values, averages and representations."""

import math

import numpy as np
import pytest
import torch
from support.critics import GAMMA, ROWS, Fixed, expected_value_loss, reached_by
from support.small_agents import act, make_agent, make_batch

from nfkern.algorithms.agents.registry import AGENTS

SIZE = 4


def encode(inputs):
    """Four numbers of an observation and a goal."""
    return torch.cat([inputs[:, :2] - inputs[:, 3:5], inputs[:, 2:3] * inputs[:, 5:] + 1, inputs[:, 3:4]], 1)


def representation(observations, goals):
    raw = encode(torch.cat([observations, goals], 1))
    return raw / raw.square().sum(1, keepdim=True).sqrt() * 2.0  # the root of SIZE


def of_pair(pairs):
    return torch.stack([pairs[:, 0] + pairs[:, 3], 2 * pairs[:, 4] - pairs[:, 1] * pairs[:, 5]])


def of_pair_on_average(pairs):
    return 0.6 * of_pair(pairs) + torch.tensor([[0.5], [-0.3]])


def values(observations, goals, of_pair=of_pair):
    return of_pair(torch.cat([observations, representation(observations, goals)], 1))


def prepare(**options):
    agent = make_agent("hiql", gamma=GAMMA, representation=SIZE, **options)
    agent.networks["encoder"] = Fixed(encode)
    agent.networks["value"] = Fixed(of_pair)
    agent.ema.module["value"] = Fixed(of_pair_on_average)
    agent.networks["policy"] = Fixed(lambda inputs: 0.3 * inputs[:, :2] - 0.4 * inputs[:, 3:5])
    agent.networks["high_policy"] = Fixed(lambda inputs: 0.5 * inputs[:, 1:5] + 0.1)
    return agent, agent.tensors(make_batch(agent.config, ROWS))


def weighted(mean, x, advantage, alpha):
    weight = (alpha * advantage).exp().clamp(max=100)
    assert (weight == 100).any()
    return -(weight * torch.distributions.Normal(mean, 1.0).log_prob(x).sum(1)).mean()


def test_values_are_gcivls_on_current_representations():
    agent, batch = prepare(expectile=0.8)
    expected = expected_value_loss(
        batch, 0.8, values, lambda observations, goals: values(observations, goals, of_pair_on_average)
    )
    torch.testing.assert_close(agent(batch, ())[1]["value/loss"], expected)


def test_actions_are_weighed_by_how_much_nearer_to_the_subgoal_they_lead():
    agent, batch = prepare(alpha=3.0, high_alpha=0.5)
    here, subgoals = batch["observations"], batch["subgoals"]
    advantage = values(batch["next_observations"], subgoals).mean(0) - values(here, subgoals).mean(0)
    mean = 0.3 * here[:, :2] - 0.4 * representation(here, subgoals)[:, :2]
    expected = weighted(mean, batch["actions"], advantage, 3.0)
    torch.testing.assert_close(agent(batch, ())[1]["actor/loss"], expected)


def test_subgoals_are_weighed_by_how_much_nearer_to_the_goal_they_are():
    agent, batch = prepare(alpha=0.5, high_alpha=3.0)
    here, subgoals, goals = (batch[key] for key in ("observations", "actor_subgoals", "actor_goals"))
    advantage = values(subgoals, goals).mean(0) - values(here, goals).mean(0)
    mean = 0.5 * torch.cat([here, goals], 1)[:, 1:5] + 0.1
    expected = weighted(mean, representation(here, subgoals), advantage, 3.0)
    torch.testing.assert_close(agent(batch, ())[1]["high_actor/loss"], expected)


def test_each_part_reaches_its_own_networks():
    agent = make_agent("hiql")
    parts = agent._losses(agent.tensors(make_batch(agent.config)))
    reached = {name: reached_by(loss, agent) for name, (loss, _) in parts.items()}
    assert reached == {"value": {"value", "encoder"}, "actor": {"policy"}, "high_actor": {"high_policy"}}
    assert all(each.grad is None for each in agent.ema.parameters())


def test_one_policy_chooses_the_subgoal_and_the_other_acts_for_it():
    agent, _ = prepare()
    batch = {key: torch.from_numpy(each) for key, each in make_batch(agent.config, 5).items()}
    chosen = 0.5 * torch.cat([batch["observations"], batch["goals"]], 1)[:, 1:5] + 0.1
    chosen = chosen * (2 / torch.linalg.vector_norm(chosen, dim=1, keepdim=True))
    expected = (0.3 * batch["observations"][:, :2] - 0.4 * chosen[:, :2]).clamp(-1, 1)
    np.testing.assert_allclose(act(agent)[:, 0], expected.numpy(), rtol=1e-5, atol=1e-6)


def test_representations_have_the_length_of_independent_numbers():
    agent = make_agent("hiql", representation=9)
    batch = agent.tensors(make_batch(agent.config))
    found = agent._represent(batch["observations"], batch["goals"])
    torch.testing.assert_close(found.square().sum(1).sqrt(), torch.full((64,), 3.0))
    assert not torch.allclose(found, agent._represent(batch["goals"], batch["observations"]))


def test_batches_and_settings():
    config = make_agent("hiql", subgoal_steps=7).config
    assert config.batches()["subgoal_steps"] == 7
    assert math.isclose(type(config)().expectile, 0.7)
    for name in ("subgoal_steps", "representation", "high_alpha"):
        with pytest.raises(ValueError, match=f"{name}: expected at least"):
            make_agent("hiql", **{name: -1})


def test_presets_are_ogbenchs():
    steps = {name: preset.config.subgoal_steps for name, preset in AGENTS["hiql"].presets.items()}
    assert steps["humanoidmaze-medium-navigate"] == 100
    assert {steps[name] for name in steps if "maze" not in name and "soccer" not in name} == {10}
    assert steps["antmaze-medium-stitch"] == steps["antsoccer-arena-stitch"] == steps["pointmaze-large-navigate"] == 25
    for preset in AGENTS["hiql"].presets.values():
        config = preset.config
        assert (config.alpha, config.high_alpha, config.expectile, config.representation) == (3.0, 3.0, 0.7, 10)
