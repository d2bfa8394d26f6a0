"""Each evaluation has a file of its own, and eval.csv the training's."""

import csv
import os
from dataclasses import replace

import pytest

from nfkern.algorithms.evaluation.result import EvaluationResult, EvaluationSettings
from nfkern.algorithms.evaluation.rollout import Episode
from nfkern.algorithms.runs.log import MetricLog
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings

SETTINGS = EvaluationSettings("pointmaze-medium-navigate-v0", (1, 2), 4, 0, 2, label="nf_bc 00000020 abc")


def store(run, step, successes, settings=SETTINGS, name=None):
    episodes = tuple(
        Episode(task, number, 0, number < successes, 0.0, 1)
        for task in settings.tasks
        for number in range(settings.episodes_per_task)
    )
    path = run.evaluations.path(step, settings)
    path = path if name is None else path.with_name(name)
    EvaluationResult(settings, episodes, {1: "a", 2: "b"}).save(path)
    return path


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"episodes_per_task": 2},
        {"max_episode_steps": 5},
        {"success_timing": "post"},
        {"env_name": "pointmaze-large-navigate-v0"},
        {"label": "nf_bc 00000020 def"},
        {"block_size": 1},
        {"versions": {"mujoco": "4"}},
    ],
)
def test_every_setting_makes_another_file(other, run):
    first = store(run, 20, 1)
    kept = first.read_text()
    second = store(run, 20, 2, replace(SETTINGS, **other))
    assert second != first
    assert first.read_text() == kept
    assert run.evaluations.find_same(20, SETTINGS)[0] == first
    assert run.evaluations.find_same(20, replace(SETTINGS, **other))[0] == second


def test_recording_paths_makes_no_other(run):
    path = store(run, 20, 1)
    recorded = replace(SETTINGS, record="xy")
    assert run.evaluations.path(20, recorded) == path
    assert run.evaluations.find_same(20, recorded)[0] == path
    assert run.evaluations.find_same(10, recorded) is None


def test_files_are_found_by_what_they_hold(run):
    # As they were called before each had a name of its own.
    old = store(run, 20, 1, name="00000020-0.json")
    assert run.evaluations.find_same(20, SETTINGS)[0] == old
    new = store(run, 20, 3, replace(SETTINGS, episodes_per_task=8))
    os.utime(old, ns=(1, 1))
    assert run.evaluations.find(20, seed=0)[0] == new
    assert run.evaluations.find(20, seed=0, episodes_per_task=4)[0] == old
    assert run.evaluations.find(20, seed=5) is None


def test_eval_csv_has_the_trainings_own(run):
    asked = RunSettings("pointmaze-medium-navigate-v0", eval_episodes=4)
    for step in (10, 20):
        store(run, step, 2)
    # Trials of a few episodes, other seeds and cut episodes are none.
    store(run, 20, 0, replace(SETTINGS, episodes_per_task=2))
    store(run, 20, 40, replace(SETTINGS, episodes_per_task=50))
    store(run, 20, 0, replace(SETTINGS, seed=9))
    store(run, 30, 0, replace(SETTINGS, max_episode_steps=3))
    MetricLog(run, 20, asked).close()
    with open(run.path / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["evaluation/success"]) for row in rows] == [("10", "0.5"), ("20", "0.5")]
    assert {(row["evaluation/seed"], row["evaluation/episodes_per_task"]) for row in rows} == {("0", "4")}
    assert run.newest_success() == "success 50.0%, return 0 at step 20"
