"""Offline goal-conditioned agents: normalisation, what they observe, and the way to a goal."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from support.selected import selected
from support.small_agents import OFFLINE_GCRL, SMALL, make_agent, make_batch

from nfkern.algorithms.agents.goals.base import ImplicitGCRLConfig
from nfkern.algorithms.agents.offline.iql import ImplicitConfig
from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data import BatchSampler, ColumnStatistics, DatasetStatistics, TransitionDataset

every_agent = pytest.mark.parametrize("name", OFFLINE_GCRL)


@every_agent
def test_losses_see_normalised_observations_and_goals(name):
    raw = make_agent(name)
    mean, std = np.array([1.0, -2.0, 0.5], np.float32), np.array([2.0, 0.5, 3.0], np.float32)
    observations = ColumnStatistics(mean, std, mean - 3 * std, mean + 3 * std)
    unit = np.ones(2, np.float32)
    columns = [observations, ColumnStatistics(0 * unit, unit, -unit, unit)]
    config = type(raw.config)(**asdict(raw.config) | {"observation_normalization": "standard"})
    batch = make_batch(config)
    agent = type(raw).create(config, batch, DatasetStatistics(*columns))
    agent.networks.load_state_dict(raw.networks.state_dict())
    if agent.ema is not None:
        agent.ema.load_state_dict(raw.ema.state_dict())
    width = {key: each.shape[-1] for key, each in batch.items() if each.ndim == 2}
    normalized = batch | {key: (batch[key] - mean) / std for key in width if width[key] == 3}
    torch.testing.assert_close(agent.loss(batch)[1], raw.loss(normalized)[1], rtol=1e-3, atol=1e-4)


@every_agent
def test_a_loss_draws_no_numbers_and_every_weight_learns(name):
    agent = make_agent(name)
    tensors, noise = agent.inputs(make_batch(agent.config))
    assert noise == ()
    assert set(tensors) == {*AGENTS[name].batch_keys, "goals"}
    agent(tensors, noise)[0].backward()
    assert [key for key, each in agent.networks.named_parameters() if each.grad is None] == []


def test_shared_settings_change_no_other_one():
    mine, theirs = asdict(ImplicitGCRLConfig()), asdict(ImplicitConfig())
    different = {key for key, value in theirs.items() if mine[key] != value}
    assert different == {"batch_size", "critic_hidden", "hidden"}
    assert mine.keys() - theirs.keys() == {"actor_random_goals"}


STEP, NEAR = 0.2, 0.2


def random_walks(rows=20_000, length=20, seed=0):
    """Episodes of random walks on a square."""
    rng = np.random.default_rng(seed)
    episodes = rows // length
    actions = rng.uniform(-1, 1, (episodes, length + 1, 2)).astype(np.float32)
    positions = np.empty_like(actions)
    positions[:, 0] = rng.uniform(-1, 1, (episodes, 2))
    for step in range(length):
        positions[:, step + 1] = np.clip(positions[:, step] + STEP * actions[:, step], -1, 1)
    ends = np.arange(length + 1) == length
    return TransitionDataset(positions.reshape(-1, 2), actions.reshape(-1, 2), np.tile(ends, episodes), name="walks")


def arrivals(act, steps=20):
    """The share of 200 starts from which acting leads near a random goal in so many steps; ten are enough."""
    rng = np.random.default_rng(1)
    here, goals = (rng.uniform(-0.9, 0.9, (200, 2)).astype(np.float32) for _ in range(2))
    arrived = np.zeros(200, bool)
    for _ in range(steps):
        here = np.clip(here + STEP * act(here, goals), -1, 1)
        arrived |= np.linalg.norm(here - goals, axis=1) < NEAR
    return arrived.mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", selected(OFFLINE_GCRL, ["gcivl"], part="learning"))
def test_a_policy_finds_the_way_to_any_goal(name):
    torch.manual_seed(0)
    dataset = random_walks()
    own = {"qrl": {"alpha": 0.003}, "offline_crl": {"alpha": 0.03}, "hiql": {"subgoal_steps": 5}}
    targets = {"tau": 0.02} if name in ("gcivl", "hiql") else {}
    sizes = SMALL[name] | {"hidden": (64, 64), "critic_hidden": (64, 64), "batch_size": 256, "steps": 1000}
    config = AGENTS[name].config_class(
        **sizes | targets | own.get(name, {}), learning_rate=1e-3, observation_normalization="none"
    )
    sampler = BatchSampler(dataset, **config.batches())
    agent = AGENTS[name].create(config, sampler.sample())
    for _ in range(config.steps):
        agent.update(sampler.sample())
    learned = arrivals(lambda here, goals: agent.act(here[:, None], goals)[:, 0])
    walking = np.random.default_rng(3)
    chance = arrivals(lambda here, goals: walking.uniform(-1, 1, here.shape))
    assert chance < 0.35
    assert learned > 0.75, (learned, chance)
