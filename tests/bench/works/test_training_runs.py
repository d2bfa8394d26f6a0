"""Training as a user does it: whole runs, which the gate looks into."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Row
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.runner import measure
from nfkern.bench.works import training_runs

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(training_runs, "STEPS", 2)


@pytest.mark.slow
@pytest.mark.parametrize(("work", "algorithm"), [("goal_conditioned_run", "gaussian_gcbc"), ("offline_rl_run", "iql")])
def test_a_run_is_timed(work, algorithm):
    row = Row(WORKS[work], CASES["synthetic_tiny"], 8, 1, (VARIANTS[algorithm],))
    (record,) = measure(row, CPU, current_environment(CPU), SMOKE)
    assert record.error is None, record.error
    assert record.quantiles.repeats >= SMOKE.min_repeats
    assert record.parameters > 0


def test_averages_are_no_trained_parameters(monkeypatch):
    problem = WORKS["goal_conditioned_run"].prepare(CASES["synthetic_tiny"], 8, CPU)
    build = VARIANTS["diffusion_gcbc"].builders["goal_conditioned_run"]
    averaged, config = build(problem).parameters, training_runs._config("diffusion_gcbc", problem)
    assert config.ema_decay > 0
    monkeypatch.setattr(training_runs, "_config", lambda *_: replace(config, ema_decay=0.0))
    assert build(problem).parameters == averaged


def test_every_algorithm_of_the_works_has_a_variant_that_is_no_peer():
    for algorithm in (*training_runs.GOAL_CONDITIONED, *training_runs.OFFLINE_RL):
        assert VARIANTS[algorithm].standing == "own_size"


def test_a_run_with_too_few_steps_or_without_its_checkpoint_is_refused(monkeypatch):
    problem = WORKS["goal_conditioned_run"].prepare(CASES["synthetic_tiny"], 8, CPU)
    built = VARIANTS["gaussian_gcbc"].builders["goal_conditioned_run"](problem)
    assert built.check(built) is None
    monkeypatch.setattr(training_runs, "STEPS", 3)
    assert "expected 3 steps" in built.check(built)
    monkeypatch.setattr(training_runs, "STEPS", 2)

    def without_checkpoint():
        path = built.run()
        shutil.rmtree(path / "checkpoints")
        return path

    assert "expected one of step 2" in built.check(without_checkpoint)


def test_the_files_go_with_the_problem():
    problem = WORKS["offline_rl_run"].prepare(CASES["synthetic_tiny"], 8, CPU)
    folder = problem.folder
    with np.load(folder / "antmaze-medium-navigate-v0.npz") as data:
        assert data["terminals"].sum() == 4
        assert set(np.unique(data["rewards"])) == {-1, 0}
    del problem
    assert not folder.exists()
