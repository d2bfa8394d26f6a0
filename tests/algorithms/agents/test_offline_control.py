"""Offline RL finds its way: from random walks on a square to a policy that goes to the goal."""

import numpy as np
import pytest
import torch
from support.selected import selected

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.evaluation.result import EvaluationResult
from nfkern.cli import commands as cli

GOAL, RADIUS, STEP = np.array([0.6, -0.5], np.float32), 0.3, 0.2
SIZES = {"critic_hidden": (64, 64), "batch_size": 256, "steps": 1200, "learning_rate": 1e-3, "schedule": "cosine"}
SIZES |= {"gamma": 0.9, "tau": 0.02, "observation_normalization": "none", "warmup_steps": 0}
# Small and quick to learn, for it is the one in `make test`.
FLOW = {"blocks": 2, "hidden": (16, 16), "representation": 16, "encoder_width": 32}
FLOW |= {"batch_size": 128, "steps": 1500, "learning_rate": 2e-3, "tau": 0.03}
OWN = {
    "nf_rlbc": FLOW | {"alpha": 0.03},
    "fql": {"alpha": 1.0},
    "ifql": {},
    "iql": {"alpha": 10.0},
    "rebrac": {"actor_weight": 0.1, "critic_weight": 0.0},
    "diffusion_ql": {"value_weight": 2.0, "steps": 2000},
}


def reached(positions):
    return np.linalg.norm(positions - GOAL, axis=-1) < RADIUS


def random_walks(rows=20_000, seed=0):
    """Transitions of random walks, with the rewards of the task: -1 until the goal is reached."""
    rng = np.random.default_rng(seed)
    observations = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    actions = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    done = reached(observations).astype(np.float32)
    columns = {"observations": observations, "actions": actions, "rewards": done - 1, "masks": 1 - done}
    columns["next_observations"] = np.clip(observations + STEP * actions, -1, 1)
    columns["next_actions"] = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    return columns


def arrivals(act, steps=20):
    """The share of 200 starts from which acting leads to the goal in so many steps; nine are enough."""
    positions = np.random.default_rng(1).uniform(-1, 1, (200, 2)).astype(np.float32)
    arrived = reached(positions)
    for _ in range(steps):
        positions = np.clip(positions + STEP * act(positions), -1, 1)
        arrived |= reached(positions)
    return arrived.mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", selected(OWN, ["nf_rlbc"], part="learning"))
def test_a_policy_goes_where_random_walks_seldom_go(name):
    torch.manual_seed(0)
    kind = AGENTS[name]
    hidden = {} if name == "nf_rlbc" else {"hidden": (64, 64)}
    config = kind.config_class(**SIZES | hidden | OWN[name])
    data, rng = random_walks(), np.random.default_rng(2)
    agent = kind.create(config, data)
    for _ in range(config.steps):
        rows = rng.integers(len(data["rewards"]), size=config.batch_size)
        agent.update({key: column[rows] for key, column in data.items()})
    generator = torch.Generator().manual_seed(0)
    learned = arrivals(lambda positions: agent.act(positions[:, None], None, generator)[:, 0])
    walking = np.random.default_rng(3)
    chance = arrivals(lambda positions: walking.uniform(-1, 1, positions.shape))
    assert chance < 0.35
    assert learned > 0.85, (learned, chance)


@pytest.mark.exhaustive(part="learning")
def test_nf_rlbc_solves_a_point_maze(tmp_path):
    name = "pointmaze-medium-navigate-v0"
    data = ["--dataset-dir", str(tmp_path / "data")]
    assert cli.main(["data", "generate", name, "--transitions", "100000", "--workers", "2", *data]) == 0
    sizes = "--critic-hidden 128 128 128 --encoder-width 64 --blocks 3 --hidden 32 32 --representation 32"
    learning = "--steps 12000 --learning-rate 1e-3 --schedule cosine --tau 0.02 --gamma 0.99 --alpha 0.05"
    run = f"--run-dir {tmp_path / 'run'} --threads 1 --eval-episodes 10 --log-interval 12000 --quiet"
    task = ["--env-name", name.replace("-v0", "-singletask-task5-v0")]
    assert cli.main(["train", "nf_rlbc", *task, *data, *sizes.split(), *learning.split(), *run.split()]) == 0
    (evaluation,) = (tmp_path / "run" / "evaluations").glob("*.json")
    assert EvaluationResult.load(evaluation).success_rate >= 0.9
