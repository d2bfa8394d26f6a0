"""`nfkern bench success`: what it measures, how it goes on after an interruption, what it refuses."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401
from support.evaluation_policies import cut_episodes

from nfkern.algorithms.evaluation import evaluate as evaluation
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.training.learner import Learner
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.studies import records
from nfkern.bench.studies.report import BEGIN, END
from nfkern.bench.studies.success import study
from nfkern.bench.studies.success.policies import TRAININGS, config_of, untrained
from nfkern.bench.studies.success.records import Dataset
from nfkern.bench.studies.success.report import DEFAULT, QUICK, REPORT
from nfkern.bench.studies.success.study import Success
from nfkern.errors import UserError

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.slow

SIZE = 3000


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Four steps of training, and episodes of three."""
    cut_episodes(monkeypatch, 3)
    monkeypatch.setattr(Success, "acting", SMOKE)
    tiny = replace(QUICK, steps=4, eval_interval=2, batch_size=8, eval_episodes=1, final_episodes=2)
    monkeypatch.setitem(REPORT.presets, ("--quick",), tiny)


@pytest.fixture
def options(point_maze_dir):  # noqa: F811
    return {"quick": True, "dataset_dir": point_maze_dir, "parameters": SIZE, "workers": 1}


def timeless(path):
    """Results without what may depend on when a study was interrupted."""
    found = REPORT.read(path)
    return found.evaluations, [replace(row, steps_per_second=0.0, seconds=0.0) for row in found.trainings]


def interrupt_update(monkeypatch, number):
    """Send Ctrl-C at a gradient step; the list has the number of each step that was taken."""
    update, taken = Learner.update, []

    def counted(learner):
        taken.append(len(taken) + 1)
        if len(taken) == number:
            os.kill(os.getpid(), signal.SIGINT)
        return update(learner)

    monkeypatch.setattr(Learner, "update", counted)
    return taken


def test_every_policy_is_trained_evaluated_and_timed(tmp_path, options, capsys):
    out, policies = tmp_path / "success.json", ("nf", "flow_matching_10", "flow_matching_1", "ddim_10", "ddpm_100")
    assert Success(out, **options, policies=policies).run() == 0
    found = REPORT.read(out)
    assert [row.training for row in found.trainings] == ["nf", "flow_matching", "diffusion"]
    runs = tmp_path / "success.runs" / POINT_MAZE
    for row in found.trainings:
        assert (row.error, row.parameters) == (None, pytest.approx(SIZE, rel=0.1))
        assert min(row.steps_per_second, row.seconds) > 0
        # Policies are evaluated from them.
        assert [each.step for each in Run(runs / row.training / "seed-0").checkpoints()] == [2, 4]
    # DDPM with its many steps at the end only; the last evaluation has more episodes.
    steps = {policy: (4,) if policy == "ddpm_100" else (2, 4) for policy in policies}
    rows = [(row.policy, row.step, row.error, len(row.successes), row.episodes) for row in found.evaluations]
    assert sorted(rows) == sorted((name, n, None, 5, 1 if n == 2 else 2) for name in policies for n in steps[name])
    assert {(row.policy, row.batch) for row in found.latencies} == {(name, n) for name in policies for n in (1, 50)}
    assert found.datasets[POINT_MAZE].transitions == 1000
    assert f"3 trainings, 9 evaluations in {out}" in capsys.readouterr().out


def test_an_interrupted_study_goes_on_to_the_same_results(tmp_path, options, monkeypatch, capsys):
    options |= {"policies": ("gaussian", "flow_matching_10", "flow_matching_1")}
    whole, out = tmp_path / "whole.json", tmp_path / "success.json"
    assert Success(whole, **options).run() == 0
    taken = interrupt_update(monkeypatch, 7)
    assert Success(out, **options).run() == 130
    assert "the same command goes on" in capsys.readouterr().out
    first = REPORT.read(out)
    assert [row.training for row in first.trainings] == ["gaussian"]
    evaluate = evaluation.evaluate

    def interrupted(*args, label="", **rest):
        if label.startswith("flow_matching_1 ") and " 00000004 " in label:
            raise KeyboardInterrupt
        return evaluate(*args, label=label, **rest)

    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    assert Success(out, **options).run() == 130
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\n{END}\n")
    assert Success(out, **options, html=tmp_path / "page.html", tables=page).run() == 0
    # Four steps for each of two trainings: none is taken twice.
    assert len(taken) == 8
    assert timeless(out) == timeless(whole)
    assert REPORT.read(out).latencies == first.latencies
    assert '<svg class="chart"' in (tmp_path / "page.html").read_text()
    assert page.read_text().count("| flow_matching_1 |") == 2
    second = out.read_text()
    assert Success(out, **options).run() == 0
    assert out.read_text() == second


def test_what_breaks_leaves_the_others_alone(tmp_path, options, monkeypatch, capsys):
    train, evaluate = study.train, evaluation.evaluate

    def broken_training(name, *rest):
        if name == "nf_gcbc":
            raise ValueError("no such luck")
        return train(name, *rest)

    def broken_evaluation(*args, label="", **rest):
        if label.startswith("gaussian "):
            raise ValueError("actions: NaN")
        return evaluate(*args, label=label, **rest)

    monkeypatch.setattr(study, "train", broken_training)
    monkeypatch.setattr(evaluation, "evaluate", broken_evaluation)
    out, options = tmp_path / "success.json", options | {"policies": ("nf", "gaussian", "flow_matching_10")}
    assert Success(out, **options).run() == 1
    found = REPORT.read(out)
    errors = {row.training: row.error for row in found.trainings}
    assert errors == {"nf": "ValueError: no such luck", "gaussian": None, "flow_matching": None}
    errors = [(row.policy, row.step) for row in found.evaluations if row.error == "ValueError: actions: NaN"]
    assert errors == [("gaussian", 2), ("gaussian", 4)]
    assert {row.policy for row in found.evaluations} == {"gaussian", "flow_matching_10"}
    printed = capsys.readouterr().out
    assert f"failed: {POINT_MAZE}: training nf, seed 0: ValueError: no such luck" in printed
    assert f"failed: {POINT_MAZE}: gaussian after 4 steps, seed 0: ValueError: actions: NaN" in printed
    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    assert Success(out, **options).run() == 1
    assert REPORT.read(out) == found
    assert Success(out, **options, retry=True).run() == 0
    again = REPORT.read(out)
    assert again.trainings[:2] == found.trainings[1:]
    assert again.failures() == []
    assert {row.policy for row in again.evaluations if row.step == 4} == set(options["policies"])


def test_missing_data_are_refused_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(
        UserError, match=rf"`nfkern data generate {POINT_MAZE} --transitions 100000 --dataset-dir .*none`"
    ):
        Success(tmp_path / "success.json", quick=True, dataset_dir=tmp_path / "none").run()
    with pytest.raises(UserError, match=r"lacks the dataset scene-play-v0: .* generate scene-play-v0 --dataset-dir"):
        Success(tmp_path / "success.json", envs=("scene-play-v0",), dataset_dir=tmp_path / "none").run()
    assert list(tmp_path.iterdir()) == []


def test_results_and_runs_are_never_mixed_or_replaced_silently(tmp_path, options):
    out, options = tmp_path / "success.json", options | {"policies": ("gaussian",)}
    assert Success(out, **options).run() == 0
    # The target says what is told, not what is measured.
    assert Success(out, **options, target=0.3).run() == 0
    other_data = {POINT_MAZE: Dataset(9, 4, 2, None)}
    records.write(out, replace(REPORT.read(out), evaluations=[], datasets=other_data))
    with pytest.raises(UserError, match=f"made with other data of {POINT_MAZE}"):
        Success(out, **options).run()
    out.unlink()
    with pytest.raises(UserError, match=r"success.runs has the runs of other results"):
        Success(out, **options).run()
    assert not out.exists()
    stale = tmp_path / "success.runs" / "stale"
    stale.touch()
    assert Success(out, **options, overwrite=True).run() == 0
    assert not stale.exists()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").touch()
    # A damaged mark is nobody's.
    for mark in ("{", '{"ended": 1}'):
        (other / "study.json").write_text(mark)
        with pytest.raises(UserError, match="mine holds other things"):
            Success(tmp_path / "new.json", **options, run_dir=other, overwrite=True).run()
    assert (other / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policies": ("nf", "gan")}, "--policies: expected some of nf, .*, got 'gan'"),
        ({"envs": ("pointmaze-huge-navigate-v0",)}, "--envs: unknown dataset .* did you mean pointmaze-"),
        ({"envs": ("pointmaze-medium-v0",)}, "--envs: expected the name of a dataset, .*, got the environment"),
        ({"envs": ("pusht-human-v0",)}, "--envs: expected OGBench's datasets with goals, .*, got 'pusht-human-v0'"),
        ({"envs": ("cube-single-play-singletask-v0",)}, "--envs: expected OGBench's datasets with goals"),
        ({"workers": 0}, "--workers: expected at least 1, got 0"),
        ({"target": 80.0}, "--target: expected a share above 0 and up to 1, got 80"),
        ({"parameters": 10}, f"--parameters: nf in {POINT_MAZE}: expected 10 within 10%; the nearest width, 1, has"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, wrong, message):
    with pytest.raises(UserError, match=message):
        Success(tmp_path / "success.json", **options | wrong).run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_are_of_their_own_or_one_size_and_differ_in_nothing_else(name):
    training, dataset = TRAININGS[name], Dataset(1000, 28, 5, None)
    shared = ("steps", "batch_size", "learning_rate", "schedule", "warmup_steps", "gamma")
    config, default = config_of(DEFAULT, training, {}, dataset), training.agent.config_class()
    assert vars(config) | dict.fromkeys(shared, 0) == vars(default) | dict.fromkeys(shared, 0)
    sized = config_of(replace(DEFAULT, parameters=50_000), training, {}, dataset)
    parameters, every = training.count_parameters(untrained(training, sized, dataset))
    assert parameters == every == pytest.approx(50_000, rel=0.1)
    # Proportions are the algorithm's own: its own width gives its own size.
    assert vars(default) | training.sizes(default.hidden[0]) == vars(default)


def test_speed_is_the_median_of_the_log_and_seconds_their_sum(tmp_path):
    rows = "10,5.0,2.0\n20,10.0,9.0\n25,10.0,9.5\n"
    (tmp_path / "train.csv").write_text(f"step,time/steps_per_second,time/seconds\n{rows}")
    assert study.speed(Run(tmp_path)) == (10.0, pytest.approx(2 + 1 + 0.5))


@pytest.mark.exhaustive(part="commands")
def test_the_command_survives_control_c(tmp_path, point_maze_dir):  # noqa: F811
    out = tmp_path / "success.json"
    options = ["bench", "success", "--out", str(out), "--dataset-dir", str(point_maze_dir), "--quick"]
    options += ["--steps", "2", "--policies", "gaussian", "--parameters", "3000"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    # Files of a training that has begun, and of an evaluation.
    for begun in ("*/train.csv", "*/evaluations/*.partial.jsonl"):
        command = [sys.executable, "-m", "support.interrupted", "1", begun, *options]
        stopped = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        printed, errors = stopped.stdout, stopped.stderr
        assert (stopped.returncode, "the same command goes on" in printed) == (130, True), printed + errors
        assert "Traceback" not in errors
    command = [sys.executable, "-m", "nfkern", *options, "--html", str(tmp_path / "s.html")]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [row.step for row in REPORT.read(out).evaluations] == [1, 2]
    assert '<svg class="chart"' in (tmp_path / "s.html").read_text()
