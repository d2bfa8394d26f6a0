"""Each evaluation has a file of its own, and eval.csv the training's."""

import csv
import os
from dataclasses import replace

import pytest

from nfkern.algorithms.evaluation.result import EvaluationResult, EvaluationSettings
from nfkern.algorithms.evaluation.rollout import Episode
from nfkern.algorithms.runs.evaluations import evaluation_path, find_evaluation, find_same
from nfkern.algorithms.runs.metrics import MetricLog, newest_success
from nfkern.algorithms.runs.settings import RunSettings

SETTINGS = EvaluationSettings("pointmaze-medium-navigate-v0", (1, 2), 4, 0, 2, label="nf_bc 00000020 abc")


def store(run_dir, step, successes, settings=SETTINGS, name=None):
    episodes = tuple(
        Episode(task, number, 0, number < successes, 0.0, 1)
        for task in settings.tasks
        for number in range(settings.episodes_per_task)
    )
    path = evaluation_path(run_dir, step, settings)
    path = path if name is None else path.with_name(name)
    EvaluationResult(settings, episodes, {1: "a", 2: "b"}).save(path)
    return path


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
def test_every_setting_makes_another_file(other, tmp_path):
    first = store(tmp_path, 20, 1)
    kept = first.read_text()
    second = store(tmp_path, 20, 2, replace(SETTINGS, **other))
    assert second != first
    assert first.read_text() == kept
    assert find_same(tmp_path, 20, SETTINGS)[0] == first
    assert find_same(tmp_path, 20, replace(SETTINGS, **other))[0] == second


def test_recording_paths_makes_no_other(tmp_path):
    path = store(tmp_path, 20, 1)
    recorded = replace(SETTINGS, record="xy")
    assert evaluation_path(tmp_path, 20, recorded) == path
    assert find_same(tmp_path, 20, recorded)[0] == path
    assert find_same(tmp_path, 10, recorded) is None


def test_files_are_found_by_what_they_hold(tmp_path):
    # As they were called before each had a name of its own.
    old = store(tmp_path, 20, 1, name="00000020-0.json")
    assert find_same(tmp_path, 20, SETTINGS)[0] == old
    new = store(tmp_path, 20, 3, replace(SETTINGS, episodes_per_task=8))
    os.utime(old, ns=(1, 1))
    assert find_evaluation(tmp_path, 20, seed=0)[0] == new
    assert find_evaluation(tmp_path, 20, seed=0, episodes_per_task=4)[0] == old
    assert find_evaluation(tmp_path, 20, seed=5) is None


def test_eval_csv_has_the_trainings_own(tmp_path):
    asked = RunSettings("pointmaze-medium-navigate-v0", eval_episodes=4)
    for step in (10, 20):
        store(tmp_path, step, 2)
    # Trials of a few episodes, other seeds and cut episodes are none.
    store(tmp_path, 20, 0, replace(SETTINGS, episodes_per_task=2))
    store(tmp_path, 20, 40, replace(SETTINGS, episodes_per_task=50))
    store(tmp_path, 20, 0, replace(SETTINGS, seed=9))
    store(tmp_path, 30, 0, replace(SETTINGS, max_episode_steps=3))
    MetricLog(tmp_path, 20, asked).close()
    with open(tmp_path / "eval.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["evaluation/success"]) for row in rows] == [("10", "0.5"), ("20", "0.5")]
    assert {(row["evaluation/seed"], row["evaluation/episodes_per_task"]) for row in rows} == {("0", "4")}
    assert newest_success(tmp_path) == "success 50.0%, return 0 at step 20"
