"""Offline CRL against formulas written out here, with known encodings."""

import math

import pytest
import torch
from support.critics import ROWS, Fixed, reached_by
from support.small_agents import make_agent, make_batch

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data import GoalSampling


def encode(inputs):
    """Two critics' encodings (2, batch, 3) of [state, action]."""
    state, action = inputs[:, :3], inputs[:, 3:].sum(1, keepdim=True)
    return torch.stack([state + action, 2 * state - action])


def encode_goal(inputs):
    return torch.stack([inputs, 0.5 * inputs + 1])


def prepare(**options):
    agent = make_agent("offline_crl", representation=3, **options)
    agent.networks["encoder"], agent.networks["goal_encoder"] = Fixed(encode), Fixed(encode_goal)
    agent.networks["policy"] = Fixed(lambda inputs: 0.9 * inputs[:, :2] - 0.4 * inputs[:, 3:5])
    return agent, agent.tensors(make_batch(agent.config, ROWS))


def test_critics_tell_each_rows_goal_from_the_others():
    agent, batch = prepare()
    encoded = encode(torch.cat([batch["observations"], batch["actions"]], 1))
    goals = encode_goal(batch["goals"])
    losses = []
    for critic in range(2):
        for row in range(ROWS):
            for other in range(ROWS):
                logit = torch.dot(encoded[critic, row], goals[critic, other]) / math.sqrt(3)
                right = torch.sigmoid(logit if row == other else -logit)
                losses.append(-right.log())
    info = agent(batch, ())[1]
    torch.testing.assert_close(info["critic/loss"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    own = (encoded * goals).sum(-1).mean() / math.sqrt(3)
    torch.testing.assert_close(info["critic/own_logit"], own)


def test_the_policy_climbs_the_lower_critic_of_its_own_goal():
    agent, batch = prepare(alpha=0.4)
    mean = 0.9 * batch["observations"][:, :2] - 0.4 * batch["actor_goals"][:, :2]
    assert (mean.abs() > 1).any()
    encoded = encode(torch.cat([batch["observations"], mean.clamp(-1, 1)], 1))
    q = (encoded * encode_goal(batch["actor_goals"])).sum(-1) / math.sqrt(3)
    q = torch.minimum(q[0], q[1])
    density = torch.distributions.Normal(mean, 1.0).log_prob(batch["actions"]).sum(1).mean()
    expected = -q.mean() / q.abs().mean() - 0.4 * density
    torch.testing.assert_close(agent(batch, ())[1]["actor/loss"], expected, rtol=1e-4, atol=1e-5)


def test_each_part_reaches_its_own_networks():
    agent = make_agent("offline_crl")
    parts = agent._losses(agent.tensors(make_batch(agent.config)))
    reached = {name: reached_by(loss, agent) for name, (loss, _) in parts.items()}
    assert reached == {"critic": {"encoder", "goal_encoder"}, "actor": {"policy"}}


def test_critics_learn_which_goal_follows():
    agent = make_agent("offline_crl", learning_rate=3e-3)
    batch = make_batch(agent.config, 16)
    for _ in range(150):
        info = agent.update(batch)
    # Saying no to all pairs costs about a yes in sixteen: 0.23 nats.
    assert info["critic/loss"] < 0.05
    assert info["critic/own_logit"] > 0 > info["critic/mean_logit"]


def test_goals_and_settings():
    batches = make_agent("offline_crl", gamma=0.9, actor_random_goals=0.25).config.batches()
    assert batches["goals"] == GoalSampling.geometric(0.9)
    assert batches["actor_goals"] == GoalSampling(p_trajectory=0.75, p_random=0.25)
    for options, message in (
        ({"representation": 0}, "representation: expected at least 1"),
        ({"alpha": -1.0}, "alpha: expected at least 0"),
        ({"gamma": 1.0}, "gamma must lie in"),
        ({"actor_random_goals": 1.5}, "p_current, p_trajectory and p_random must be >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make_agent("offline_crl", **options)


def test_presets_are_ogbenchs():
    alphas = {name: preset.config.alpha for name, preset in AGENTS["offline_crl"].presets.items()}
    assert alphas["pointmaze-large-navigate"] == 0.03
    assert alphas["antmaze-large-navigate"] == alphas["humanoidmaze-medium-navigate"] == 0.1
    assert alphas["antsoccer-arena-stitch"] == 0.3
    assert alphas["cube-single-play"] == 3.0
    gammas = {name for name, preset in AGENTS["offline_crl"].presets.items() if preset.config.gamma == 0.995}
    assert gammas == {"humanoidmaze-medium-navigate"}
