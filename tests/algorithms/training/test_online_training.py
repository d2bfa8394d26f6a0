"""Runs in a maze: they log, draw and evaluate, repeat, and go on after an interruption."""

import contextlib
import csv
import json
import math
import os
import signal

import gymnasium
import numpy as np
import pytest
from safetensors.numpy import load_file

from nfkern.algorithms.agents.registry import AGENTS, load_agent
from nfkern.algorithms.envs.mazes import make_vector_maze
from nfkern.algorithms.evaluation.goals import evaluate_goals
from nfkern.algorithms.runs.settings import OnlineSettings
from nfkern.algorithms.training import online as online_training
from nfkern.algorithms.training.collector import Collector
from nfkern.algorithms.training.loop import Interrupted
from nfkern.algorithms.training.online import train_online
from nfkern.cli import commands as cli
from nfkern.errors import UserError

pytestmark = pytest.mark.slow

MAZE = "point-u-maze"
SMALL = {"width": 8, "layers": 1, "representation": 4, "batch_size": 16, "unroll_length": 6, "prefill_length": 12}
SMALL |= {"num_envs": 3, "updates_per_unroll": 5, "buffer_length": 100, "candidates": 4, "steps": 40}
OWN = {"nf_ugs": {"blocks": 2, "hidden": (8, 8)}, "crl": {"exploration": "uniform"}}


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    def make(*args, **options):
        return make_vector_maze(*args, **options, max_episode_steps=20)

    monkeypatch.setattr("nfkern.algorithms.training.online.make_vector_maze", make)
    monkeypatch.setattr("nfkern.algorithms.evaluation.goals.make_vector_maze", make)


def run(folder, name="nf_ugs", **options):
    settings = {"eval_episodes": 4, "log_interval": 10, "checkpoint_interval": 20, "eval_interval": 20, "quiet": True}
    config = AGENTS[name].config_class(**SMALL | OWN[name])
    return train_online(name, config, OnlineSettings(MAZE, run_dir=folder, **settings | options))


def rows(path):
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


def weights(run_dir):
    return load_file(sorted((run_dir / "checkpoints").iterdir())[-1] / "agent.safetensors")


@pytest.mark.parametrize("name", list(OWN))
def test_a_run_leaves_logs_checkpoints_and_a_picture(name, tmp_path):
    run_dir = run(tmp_path / "run", name)
    training = rows(run_dir / "train.csv")
    assert [row["step"] for row in training] == ["10", "20", "30", "40"]
    # 12 steps before learning, then 6 for every 5 gradient steps; of 3 environments.
    assert [int(row["environment/steps"]) for row in training] == [3 * (12 + 6 * k) for k in (2, 4, 6, 8)]
    assert all(0 < float(row["environment/coverage"]) <= 1 for row in training)
    assert [row["step"] for row in rows(run_dir / "eval.csv")] == ["20", "40"]
    assert [path.name for path in sorted((run_dir / "checkpoints").iterdir())] == ["00000020", "00000040"]
    assert (run_dir / "coverage.png").stat().st_size > 10_000
    assert json.loads((run_dir / "config.json").read_text())["env_name"] == MAZE
    agent = load_agent(run_dir / "checkpoints" / "00000040")
    assert agent.act(np.zeros((2, 1, 4), np.float32), np.ones((2, 2), np.float32)).shape == (2, 1, 2)


def test_the_same_seed_gives_the_same_run(tmp_path):
    first, second, other = (run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert rows(first / "train.csv") == rows(second / "train.csv")
    assert rows(first / "eval.csv") == rows(second / "eval.csv")
    for key, value in weights(first).items():
        np.testing.assert_array_equal(value, weights(second)[key])
    assert rows(first / "train.csv") != rows(other / "train.csv")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_goes_on(number, tmp_path, monkeypatch):
    unrolling, calls = Collector.unrolling, []

    def interrupted(self):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), number)
        return unrolling(self)

    monkeypatch.setattr(Collector, "unrolling", interrupted)
    with pytest.raises(Interrupted, match="stopped at step 25 of 40"):
        run(tmp_path / "run")
    buffer = load_file(tmp_path / "run" / "checkpoints" / "00000025" / "buffer.safetensors")
    assert buffer["added"][0] == 12 + 5 * 6
    run_dir = run(tmp_path / "run", resume=True)
    training = rows(run_dir / "train.csv")
    assert [row["step"] for row in training] == ["10", "20", "30", "40"]
    # Nothing is filled anew, nothing is lost.
    assert int(training[-1]["environment/steps"]) == 3 * (12 + 6 * 8)
    assert load_file(run_dir / "checkpoints" / "00000040" / "buffer.safetensors")["added"][0] == 12 + 6 * 8
    assert [row["step"] for row in rows(run_dir / "eval.csv")] == ["20", "40"]


@pytest.mark.parametrize("interrupted_at", [1, 2])
def test_an_evaluation_that_was_interrupted_is_made_up_for(interrupted_at, tmp_path, monkeypatch):
    calls = []

    def failing(*args, **options):
        calls.append(1)
        if len(calls) == interrupted_at:
            raise KeyboardInterrupt
        return evaluate_goals(*args, **options)

    monkeypatch.setattr(online_training, "evaluate_goals", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    run_dir = run(tmp_path / "run", resume=True)
    assert [row["step"] for row in rows(run_dir / "eval.csv")] == ["20", "40"]
    # Once more, and nothing is left to do.
    before = (run_dir / "eval.csv").read_text()
    run(tmp_path / "run", resume=True)
    assert (run_dir / "eval.csv").read_text() == before
    assert len(calls) == 3


def test_an_environment_that_fails_at_once_leaves_no_run_behind(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("the simulator is unstable")

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "prefill", broken)
        with pytest.raises(RuntimeError, match="unstable"):
            run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_are_named(tmp_path, monkeypatch):
    kind, calls = AGENTS["nf_ugs"], []

    def broken(self, batch, generator=None, original=kind.update):
        calls.append(1)
        if len(calls) == 23:
            next(self.networks.parameters()).data[0] = math.nan
            raise ValueError("weights: expected finite numbers")
        return original(self, batch, generator)

    monkeypatch.setattr(kind, "update", broken)
    with pytest.raises(UserError, match=r"the weight networks.* is not finite at step 20; .* is .*00000020"):
        run(tmp_path / "run", eval_episodes=0)


def test_seeds_share_no_starts(tmp_path):
    starts = []
    for seed in ((0, 0), (1, 0), (0, 40)):
        with make_vector(4) as environments, Collector(make_agent(), environments, seed) as rounds:
            starts += rounds._starts[:, :2].tolist()
    with make_vector(4) as environments:
        seeds = np.random.SeedSequence((0, 0, 1)).generate_state(4).tolist()
        starts += environments.reset(seed=seeds)[0]["observation"][:, :2].tolist()
    assert len({tuple(start) for start in starts}) == 16


def make_vector(num_envs):
    return contextlib.closing(make_vector_maze(MAZE, num_envs))


def make_agent():
    kind = AGENTS["crl"]
    sizes = {"observations": 4, "goals": 2, "actions": 2}
    example = {name: np.zeros((1, size), np.float32) for name, size in sizes.items()}
    return kind.create(kind.config_class(**SMALL), example)


def test_other_ways_of_resetting_are_refused():
    with make_vector(2) as environments:
        environments.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}
        with pytest.raises(ValueError, match="expected the autoreset mode .*NEXT_STEP"):
            Collector(make_agent(), environments, 0)


def test_eval_and_report_say_where_a_mazes_results_are(tmp_path, capsys):
    run_dir = run(tmp_path / "run", eval_episodes=0)
    for command in (["eval", str(run_dir)], ["report", str(run_dir), "--out", str(tmp_path / "r.html")]):
        assert cli.main(command) == 2
        assert "is a run in a maze, which its training has evaluated: see" in capsys.readouterr().err


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--width 8 --layers 1 --representation 4 --batch-size 16 --unroll-length 6 --prefill-length 12 --num-envs 3"
    small += " --updates-per-unroll 5 --buffer-length 100 --candidates 4 --steps 10 --eval-episodes 0 --quiet"
    assert cli.main(["train", "nf_ugs", "--env-name", MAZE, "--blocks", "2", "--hidden", "8", "8", *small.split()]) == 0
    assert capsys.readouterr().out.strip() == f"runs/nf_ugs/{MAZE}/seed-0"
    assert cli.main(["train", "crl", "--preset", "ant-u-maze-uniform", "--env-name", "point-v-maze"]) == 2
    error = capsys.readouterr().err
    assert "point-v-maze" in error
    assert "point-u-maze" in error
    assert cli.main(["train", "nf_ugs", "--env-name", MAZE, *small.split()]) == 2
    assert "already holds a run" in capsys.readouterr().err


class Homing:
    """Goes straight for the goal and stops there, in half of the episodes; in the others it stays where it is."""

    def act(self, observations, goals):
        position, velocity = observations[:, 0, :2], observations[:, 0, 2:]
        force = 10 * (goals - position) - 4 * velocity
        force[::2] = 0
        return np.clip(force, -1, 1)[:, None]


def test_evaluation_counts_episodes_that_reach_their_goal(monkeypatch):
    def make(*args, **options):
        environments = make_vector_maze(*args, **options, max_episode_steps=100)
        reset = environments.reset
        # A goal in the next cell, which no wall is in the way of.
        environments.reset = lambda **options: reset(**options, options={"goal_cell": (1, 2)})
        return environments

    monkeypatch.setattr("nfkern.algorithms.evaluation.goals.make_vector_maze", make)
    result = evaluate_goals(Homing(), MAZE, episodes=8, seed=0)
    assert result["success"] == result["success_at_end"] == 0.5
    assert 0 < result["success_low"] < 0.5 < result["success_high"] < 1


@pytest.mark.exhaustive(part="learning")
def test_nf_ugs_covers_a_small_maze(tmp_path, monkeypatch):
    monkeypatch.setattr(online_training, "make_vector_maze", make_vector_maze)
    sizes = {"width": 64, "layers": 2, "hidden": (64, 64), "blocks": 4, "representation": 16, "candidates": 64}
    rounds = {"num_envs": 16, "prefill_length": 100, "updates_per_unroll": 64, "steps": 640}
    learning = {"batch_size": 256, "learning_rate": 1e-3, "critic_learning_rate": 1e-3}
    config = AGENTS["nf_ugs"].config_class(**sizes, **rounds, **learning)
    settings = OnlineSettings(MAZE, run_dir=tmp_path / "run", log_interval=64, eval_episodes=0, quiet=True, threads=1)
    coverage = [
        float(row["environment/coverage"]) for row in rows(train_online("nf_ugs", config, settings) / "train.csv")
    ]
    # The environments' own goals and an untrained actor leave the far end of the maze alone.
    assert coverage[0] < 1
    assert coverage[-1] == 1
