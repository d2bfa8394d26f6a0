"""Offline RL: every loss against formulas written out here, on tiny batches; each sign and stop has its test."""

import math

import numpy as np
import pytest
import torch
from support.critics import ROWS, Fixed, critics_at, expected_critic_loss, prepare, target_critics, transitions_of
from support.small_agents import OFFLINE, OFFLINE_RL, act, make_agent, make_batch

from nfkern.algorithms.agents.networks import sinusoidal_embedding
from nfkern.algorithms.agents.registry import AGENTS


def linear_policy(agent, scale=0.7):
    """Put a known function of state and noise in place of a one-step policy."""
    agent.networks["policy"] = Fixed(lambda inputs: scale * inputs[:, :2] + 0.5 * inputs[:, 3:])
    return lambda states, noise: scale * states[:, :2] + 0.5 * noise


@pytest.mark.parametrize("aggregation", ["min", "mean"])
def test_critics_learn_what_follows_where_the_task_goes_on(aggregation):
    agent, batch, noise = prepare("fql", q_aggregation=aggregation)
    policy = linear_policy(agent)
    loss, info = agent(batch, noise)
    following = batch["next_observations"]
    q = critics_at(following, policy(following, noise[0]).clamp(-1, 1), target_critics)
    expected = expected_critic_loss(batch, q.amin(0) if aggregation == "min" else q.mean(0))
    torch.testing.assert_close(info["critic/loss"], expected)
    torch.testing.assert_close(loss, info["critic/loss"] + info["actor/loss"])
    # An outcome that nobody reached counts only where the mask is 1.
    ended = batch | {"masks": torch.zeros(ROWS)}
    immediate = expected_critic_loss(ended, torch.zeros(ROWS))
    torch.testing.assert_close(agent(ended, noise)[1]["critic/loss"], immediate)
    assert not torch.isclose(immediate, expected)


@pytest.mark.parametrize("name", OFFLINE_RL)
def test_no_gradient_crosses_between_critics_and_policy(name):
    agent, batch, noise = prepare(name)
    state = batch["observations"]
    agent._critic_loss(transitions_of(agent, batch), noise)[0].backward()
    assert agent.networks["critic"].weight.grad is not None
    reached = {n for n, parameter in agent.named_parameters() if parameter.grad is not None}
    assert reached == {"networks.critic.weight"}
    agent.zero_grad()
    if "value" in agent.networks:
        agent._value_loss(transitions_of(agent, batch))[0].backward()
        reached = {n.split(".")[1] for n, parameter in agent.named_parameters() if parameter.grad is not None}
        assert reached == {"value"}
        agent.zero_grad()
    agent._actor_loss(transitions_of(agent, batch), noise)[0].backward()
    reached = {n.split(".")[1] for n, parameter in agent.named_parameters() if parameter.grad is not None}
    policies = set(agent.networks) - {"critic", "value"}
    assert reached == policies, state.shape


def test_nf_rlbc_maximises_value_and_likelihood():
    agent, batch, noise = prepare("nf_rlbc", alpha=0.3, entropy_weight=0.2)
    torch.nn.init.normal_(agent.networks["flow"].output_weight, std=0.3)
    flow, encoder = agent.networks["flow"], agent.networks["encoder"]
    info = agent(batch, noise)[1]
    with torch.no_grad():
        context = encoder(batch["observations"])
        actions, log_det = flow.to_data(noise[1], context)
        inside = actions.abs().amax(1) < 1
        assert 0.05 < inside.float().mean() < 0.95
        q = critics_at(batch["observations"], actions.clamp(-1, 1)).amin(0).mean()
        entropy = (0.5 * noise[1].square().sum(1) + math.log(2 * math.pi) + log_det).mean()
        likelihood = flow.log_prob(batch["actions"].clamp(-0.99999, 0.99999), context).mean()
        torch.testing.assert_close(info["actor/entropy"], entropy)
        torch.testing.assert_close(info["actor/loss"], -q - 0.3 * likelihood - 0.2 * entropy)
        following, _ = flow.to_data(noise[0], encoder(batch["next_observations"]))
        q = critics_at(batch["next_observations"], following.clamp(-1, 1), target_critics).amin(0)
        torch.testing.assert_close(info["critic/loss"], expected_critic_loss(batch, q))


def test_nf_rlbc_learns_through_its_samples():
    # With no weight on imitation, only the value of samples is left: their mean must move to where it is high.
    agent, batch, _ = prepare("nf_rlbc", alpha=0.0, learning_rate=3e-3)
    agent.networks["critic"].function = lambda inputs: (
        -(inputs[:, 3:] - torch.tensor([0.4, -0.3])).square().sum(1)[None]
    )
    agent.networks["critic"].weight.requires_grad_(False)
    for _ in range(150):
        agent.update(batch)
    np.testing.assert_allclose(act(agent, 64)[:, 0].mean(0), [0.4, -0.3], atol=0.1)


def test_clipped_samples_have_no_gradient():
    agent, batch, noise = prepare("nf_rlbc", alpha=0.0)
    far = (noise[0], torch.full_like(noise[1], 30.0))
    transitions = transitions_of(agent, batch)
    agent._actor_loss(transitions, far)[0].backward()
    gradients = [p.grad for p in agent.networks["flow"].parameters() if p.grad is not None]
    assert max(gradient.abs().max() for gradient in gradients) == 0


def test_fql_distils_and_maximises_the_mean_value():
    agent, batch, noise = prepare("fql", alpha=2.0, flow_steps=3)
    policy = linear_policy(agent)
    velocity = agent.networks["velocity"] = Fixed(lambda inputs: 0.3 * inputs[:, 3:5] + inputs[:, 5:])
    states, (_, distilled, start, time) = batch["observations"], noise
    info = agent(batch, noise)[1]
    data = batch["actions"]
    point = (1 - time) * start + time * data
    imitation = (0.3 * point + time - (data - start)).square().mean()
    many = distilled
    for step in range(3):
        many = many + (0.3 * many + step / 3) / 3
    actions = policy(states, distilled)
    distillation = (actions - many.clamp(-1, 1)).square().mean()
    q = critics_at(states, actions.clamp(-1, 1)).mean()
    torch.testing.assert_close(info["actor/loss"], imitation + 2 * distillation - q)
    # The flow imitates and nothing else: it is not drawn to the policy that learns from it.
    agent._actor_loss(transitions_of(agent, batch), noise)[0].backward()
    factor = velocity.weight.grad.item()
    expected = (2 * (0.3 * point + time - (data - start)) * (0.3 * point + time)).mean().item()
    assert factor == pytest.approx(expected, rel=1e-4)


def test_rebrac_stays_near_the_data_on_both_sides():
    agent, batch, noise = prepare(
        "rebrac", actor_weight=0.3, critic_weight=0.4, target_noise=2.0, target_noise_clip=0.5
    )
    agent.networks["policy"] = Fixed(lambda inputs: 0.2 * inputs[:, :2])
    agent.ema.module["policy"] = Fixed(lambda inputs: 0.3 * inputs[:, :2])
    info = agent(batch, noise)[1]
    states, following = batch["observations"], batch["next_observations"]
    moved = (0.3 * following[:, :2] + (2.0 * noise[0]).clamp(-0.5, 0.5)).clamp(-1, 1)
    value = critics_at(following, moved, target_critics).amin(0)
    value = value - 0.4 * (moved - batch["next_actions"]).square().sum(1)
    torch.testing.assert_close(info["critic/loss"], expected_critic_loss(batch, value))
    actions = 0.2 * states[:, :2]
    q = critics_at(states, actions).amin(0)
    distance = (actions - batch["actions"]).square().sum(1).mean()
    torch.testing.assert_close(info["actor/loss"], 0.3 * distance - q.mean() / q.abs().mean())


def test_diffusion_ql_maximises_value_through_all_steps():
    agent, batch, noise = prepare("diffusion_ql", value_weight=0.7)
    predictor = agent.networks["noise"]
    states, (_, start, added, levels) = batch["observations"], noise
    info = agent(batch, noise)[1]
    q = critics_at(states, agent._diffusion.sample(predictor, start, states).clamp(-1, 1)).amin(0)
    imitation = agent._diffusion.loss(predictor, batch["actions"], states, added, levels)
    torch.testing.assert_close(info["actor/loss"], (imitation - 0.7 * q.mean() / q.abs().mean()).detach())
    agent._actor_loss(transitions_of(agent, batch), noise)[0].backward()
    gradient = predictor[0].weight.grad.clone()
    # By hand: five steps of DDIM through Nichol and Dhariwal's signal, every one of them differentiated.
    level = torch.cos((torch.arange(6) / 5 + 0.008) / 1.008 * torch.pi / 2) ** 2
    signal = torch.cumprod(1 - torch.clamp(1 - level[1:] / level[:-1], max=0.999), 0)
    point = start
    for step in reversed(range(5)):
        embedded = sinusoidal_embedding(torch.full((ROWS,), float(step)), 128)
        predicted = predictor(torch.cat([states, point, embedded], 1))
        clean = ((point - (1 - signal[step]).sqrt() * predicted) / signal[step].sqrt()).clamp(-1, 1)
        before = signal[step - 1] if step else torch.ones(())
        point = before.sqrt() * clean + (1 - before).sqrt() * predicted
    q = critics_at(states, point.clamp(-1, 1)).amin(0)
    imitation = agent._diffusion.loss(predictor, batch["actions"], states, added, levels)
    predictor.zero_grad()
    (imitation - 0.7 * q.mean() / q.detach().abs().mean()).backward()
    torch.testing.assert_close(gradient, predictor[0].weight.grad, rtol=1e-3, atol=1e-4)


def test_targets_move_by_tau():
    agent = make_agent("nf_rlbc", tau=0.25)
    batch = make_batch(agent.config)
    weights = []
    for _ in range(3):
        agent.update(batch)
        weights.append(agent.networks["critic"].weights[0].clone())
    # The first update copies; each later one moves a quarter of the way.
    expected = 0.75 * (0.75 * weights[0] + 0.25 * weights[1]) + 0.25 * weights[2]
    torch.testing.assert_close(agent.ema.module["critic"].weights[0].data, expected.data)
    assert set(agent.ema.module) == {"critic"}
    assert set(make_agent("rebrac").ema.module) == {"critic", "policy"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 1.0}, "gamma: expected a number in"),
        ({"tau": 0.0}, "tau: expected a number in"),
        ({"alpha": -1.0}, "alpha: expected at least 0"),
        ({"action_normalization": "standard"}, "action_normalization: offline RL expects"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        make_agent("nf_rlbc", **options)


# Little weight on value, so that the data's actions count; to advantage-weighted agents nothing else counts anyway.
IMITATING = {"alpha": 10.0, "actor_weight": 100.0, "value_weight": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE)
def test_five_transitions_are_learned_by_heart(name):
    rng = np.random.default_rng(0)
    states, actions = rng.normal(size=(5, 3)).astype(np.float32), rng.uniform(-0.8, 0.8, (5, 2)).astype(np.float32)
    # Every one 16 times, for losses that draw noise for each.
    data, following = (np.tile(states, (16, 1)), np.tile(actions, (16, 1))), ("next_observations", "next_actions")
    batch = dict(zip(("observations", "actions", *following), (*data, *data), strict=True))
    batch |= {"rewards": np.zeros(80, np.float32), "masks": np.zeros(80, np.float32)}
    batch |= dict.fromkeys(("goals", "actor_goals", "subgoals", "actor_subgoals"), batch["observations"])
    rate = 5e-3 if name == "nf_rlbc" else 1e-2
    imitating = {key: value for key, value in IMITATING.items() if hasattr(AGENTS[name].config_class, key)}
    agent = make_agent(name, steps=400, learning_rate=rate, schedule="cosine", **imitating)
    for _ in range(400):
        agent.update(batch)
    generator = torch.Generator().manual_seed(0)
    goals = states if agent.goal_conditioned else None
    acted = np.stack([agent.act(states[:, None], goals, generator)[:, 0] for _ in range(20)])
    assert np.sqrt(np.square(acted - actions).mean()) < 0.4 * actions.std()


def test_every_published_environment_has_a_preset():
    environments = {
        *("puzzle-3x3-play", "scene-play", "antmaze-large-navigate", "cube-single-play"),
        *("humanoidmaze-medium-navigate", "antsoccer-arena-navigate"),
    }
    for name in ("nf_rlbc", "fql", "ifql", "iql", "rebrac"):
        assert set(AGENTS[name].presets) == environments
        assert all(preset.config.observation_normalization == "none" for preset in AGENTS[name].presets.values())
    flow = AGENTS["nf_rlbc"].presets["cube-single-play"].config
    assert (flow.blocks, flow.hidden, flow.norm_eps, flow.inverted) == (6, (320, 256), 1e-6, True)
    assert AGENTS["nf_rlbc"].presets["antsoccer-arena-navigate"].config.q_aggregation == "mean"
    assert AGENTS["fql"].presets["humanoidmaze-medium-navigate"].config.gamma == 0.995
