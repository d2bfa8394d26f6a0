"""Training as a user does it: whole runs, which the gate looks into."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.bench_outcomes import CPU, outcome, tiny

from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.works import training_runs


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(training_runs, "STEPS", 2)


@pytest.mark.slow
@pytest.mark.parametrize(("work", "algorithm"), [("goal_conditioned_run", "gaussian_gcbc"), ("offline_rl_run", "iql")])
def test_a_run_is_timed(work, algorithm):
    record = outcome(VARIANTS[algorithm], work, batch=8)
    assert record.error is None, record.error
    assert record.quantiles.repeats >= 2
    assert record.parameters > 0


def test_averages_are_no_trained_parameters(monkeypatch):
    problem = WORKS["goal_conditioned_run"].prepare(tiny("goal_conditioned_run"), 8, CPU)
    build = VARIANTS["diffusion_gcbc"].builders["goal_conditioned_run"]
    averaged, config = build(problem).parameters, training_runs._config("diffusion_gcbc", problem)
    assert config.ema_decay > 0
    monkeypatch.setattr(training_runs, "_config", lambda *_: replace(config, ema_decay=0.0))
    assert build(problem).parameters == averaged


def test_a_run_with_too_few_steps_or_without_its_checkpoint_is_refused(monkeypatch):
    problem = WORKS["goal_conditioned_run"].prepare(tiny("goal_conditioned_run"), 8, CPU)
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
    problem = WORKS["offline_rl_run"].prepare(tiny("offline_rl_run"), 8, CPU)
    folder = problem.folder
    with np.load(folder / "antmaze-medium-navigate-v0.npz") as data:
        assert data["terminals"].sum() == 4
        assert set(np.unique(data["rewards"])) == {-1, 0}
    del problem
    assert not folder.exists()
