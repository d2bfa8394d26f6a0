"""Sweeps: what a spec says, runs on Ray of which one fails, a table over seeds, and going on."""

import _thread
import contextlib
import csv
import functools
import json
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401

from nfkern.algorithms.evaluation.result import EvaluationResult, EvaluationSettings
from nfkern.algorithms.evaluation.rollout import Episode
from nfkern.algorithms.sweep import sweep
from nfkern.algorithms.sweep.spec import Sweep, SweepRun
from nfkern.algorithms.sweep.summary import summarize, table
from nfkern.algorithms.sweep.sweep import execute
from nfkern.cli import commands as cli
from nfkern.errors import UserError


def write(path, text):
    path.write_text(text)
    return path


def test_a_spec_is_algorithms_times_tasks_times_seeds(tmp_path):
    spec = write(
        tmp_path / "s.toml",
        """
        seeds = [3, 5]
        cpus = 2
        gpus = 0.5
        [common]
        env-name = ["a-v0", "b-v0"]
        steps = 10
        [[runs]]
        algorithm = "nf_gcbc"
        hidden = [8, 16]
        denoise = false
        [[runs]]
        algorithm = "nf_gcbc"
        label = "wide"
        env-name = "c-v0"
        steps = 20
        learning-rate = 1e-4
        flow = "causal"
        """,
    )
    loaded = Sweep.load(spec)
    assert (loaded.cpus, loaded.gpus) == (2, 0.5)
    assert [run.name for run in loaded.runs] == [
        *(f"nf_gcbc/{task}/seed-{seed}" for task in ("a-v0", "b-v0") for seed in (3, 5)),
        *(f"wide/c-v0/seed-{seed}" for seed in (3, 5)),
    ]
    first = "nf_gcbc --env-name a-v0 --seed 3 --steps 10 --hidden 8 16 --no-denoise"
    assert loaded.runs[0].arguments == tuple(first.split())
    last = "nf_gcbc --env-name c-v0 --seed 5 --steps 20 --learning-rate 0.0001 --flow causal"
    assert loaded.runs[-1].arguments == tuple(last.split())
    assert [run.seed for run in Sweep.load(write(spec, RUN.replace("seeds = 1", "seeds = 4"))).runs] == [0, 1, 2, 3]


RUN = 'seeds = 1\n[[runs]]\nalgorithm = "nf_gcbc"\nenv-name = "a-v0"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 1", "runs is missing"),
        ("seed = 1\n" + RUN, "got seed"),
        (RUN.replace("nf_gcbc", "nf_gcb"), "expected algorithm, one of nf_bc, .* got 'nf_gcb'"),
        (RUN.replace("env-name", "env"), "expected env-name, a name or a list of names"),
        (RUN + "seed = 2\n", "decides seed; leave it out"),
        (RUN + "steps = {}\n", "expected steps to be a number, a string"),
        (RUN + RUN.split("\n", 1)[1], "nf_gcbc/a-v0/seed-0 comes twice"),
        (RUN.replace("seeds = 1", "seeds = 0"), "expected seeds, how many or a list of them, got 0"),
        ("cpus = 0\n" + RUN, "expected cpus, a whole number >= 1"),
        ("[[runs", "s.toml: "),
        ("runs = [1]", r"expected a table \[common\] and tables \[\[runs\]\]"),
        ("seeds = [0, 0]\n" + RUN.split("\n", 1)[1], "expected seeds that differ"),
        (RUN + "run_dir = 'x'\n", "decides run-dir; leave it out"),
    ],
)
def test_what_is_wrong_with_a_spec(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Sweep.load(write(tmp_path / "s.toml", text))
    with pytest.raises(UserError, match="No such file"):
        Sweep.load(tmp_path / "missing.toml")


def test_settings_that_no_run_would_take(tmp_path, capsys):
    spec = write(tmp_path / "s.toml", RUN + "stepps = 10\n")
    assert cli.main(["sweep", str(spec)]) == 2
    assert "nf_gcbc: no option --stepps; did you mean --steps?" in capsys.readouterr().err
    # Also where a later entry of the same label is right.
    other = RUN.split("\n", 1)[1].replace("a-v0", "b-v0")
    assert cli.main(["sweep", str(write(spec, RUN + "stepps = 10\n" + other)), "--dry-run"]) == 2
    assert "no option --stepps" in capsys.readouterr().err
    assert cli.main(["sweep", str(write(spec, RUN + "steps = 0\n")), "--dry-run"]) == 2
    assert "nf_gcbc: steps: expected at least 1, got 0" in capsys.readouterr().err


def make_evaluation(tasks, seed=0, episodes=10):
    """A stored evaluation with these shares of successes."""
    numbers = tuple(range(1, len(tasks) + 1))
    settings = EvaluationSettings("cube-single-play-v0", numbers, episodes, seed, 5)
    played = tuple(
        Episode(task, episode, 0, episode < round(share * episodes), 0.0, 1)
        for task, share in zip(numbers, tasks, strict=True)
        for episode in range(episodes)
    )
    return EvaluationResult(settings, played, {task: f"task{task}" for task in numbers}, {})


def make_run(folder, name, tasks):
    """A finished run's folder, with what its training leaves of its last evaluation."""
    (folder / name / "evaluations").mkdir(parents=True)
    make_evaluation(tasks).save(folder / name / "evaluations" / "00000020-0.json")
    with open(folder / name / "eval.csv", "w", newline="") as file:
        csv.writer(file).writerows([["step", "evaluation/success"], [10, 0.0], [20, float(np.mean(tasks))]])


def test_the_table_is_over_seeds_beside_the_published_number(tmp_path):
    env_name = "cube-single-play-v0"
    runs = [SweepRun(f"nf/{seed}", "nf", env_name, seed, "nf_gcbc") for seed in range(4)]
    scores = [[0.9, 0.1, 0.5, 0.5, 0.5], [0.8, 0.2, 0.6, 0.4, 0.5], [1.0, 0.0, 0.9, 0.9, 0.7]]
    for run, tasks in zip(runs, scores, strict=False):
        make_run(tmp_path, run.name, tasks)
    (row,) = summarize(runs, tmp_path, dict.fromkeys([run.name for run in runs[:3]], "finished") | {"nf/3": "failed"})
    assert (row.seeds, row.failed, row.published, row.published_alone) == (3, 1, 79.5, True)
    assert row.mean == pytest.approx(100 * np.mean(scores))
    assert row.std == pytest.approx(100 * np.mean(scores, 1).std(ddof=1))
    # 15 scores: the middle half is all but the lowest and highest three.
    assert row.iqm == pytest.approx(100 * np.sort(np.ravel(scores))[3:-3].mean())
    assert row.low < row.mean < row.high
    assert "1 failed" in list(table([row]))[1]
    (alone,) = summarize(runs[3:], tmp_path, {})
    assert (alone.seeds, np.isnan(alone.mean), np.isnan(alone.low)) == (0, True, True)


def test_other_evaluations_of_a_run_do_not_change_its_row(tmp_path):
    runs = [SweepRun(f"nf/{seed}", "nf", "cube-single-play-v0", seed, "nf_gcbc") for seed in range(2)]
    for run in runs:
        make_run(tmp_path, run.name, [0.5, 1.0])
    states = dict.fromkeys([run.name for run in runs], "finished")
    (before,) = summarize(runs, tmp_path, states)
    make_evaluation([0.0, 0.0], seed=7).save(tmp_path / "nf/1" / "evaluations" / "00000020-7.json")
    make_evaluation([0.0, 0.0], seed=0).save(tmp_path / "nf/1" / "evaluations" / "00000010-0.json")
    assert summarize(runs, tmp_path, states) == [before]
    # Evaluated on other episodes than its siblings: still a row, with an interval by the seeds.
    make_evaluation([0.5, 1.0], seed=0, episodes=20).save(tmp_path / "nf/1" / "evaluations" / "00000020-0.json")
    (mixed,) = summarize(runs, tmp_path, states)
    assert (mixed.seeds, mixed.mean) == (2, 75.0)


@pytest.mark.parametrize(
    ("algorithm", "env_name", "expected"),
    [
        ("nf_rlbc", "puzzle-3x3-play-singletask-task3-v0", (97.6, True)),
        # Without a number, OGBench's default task.
        ("nf_rlbc", "antmaze-large-navigate-singletask-v0", (76.4, True)),
        ("nf_rlbc", "scene-play-singletask-v0", (88.0, True)),
        ("nf_rlbc", "cube-single-play-singletask-task1-v0", (90, False)),
        ("nf_rlbc", "pointmaze-medium-navigate-singletask-v0", (None, True)),
        ("fql", "puzzle-3x3-play-singletask-task3-v0", (None, True)),
        ("nf_gcbc", "scene-play-v0", (42.0, True)),
        ("nf_ugs", "ant-big-maze", (68, True)),
    ],
)
def test_published_numbers_are_of_the_same_task(algorithm, env_name, expected, tmp_path):
    (row,) = summarize([SweepRun("x", "x", env_name, 0, algorithm)], tmp_path, {})
    assert (row.published, row.published_alone) == expected
    assert ("* the paper's mean" in "\n".join(table([row]))) != expected[1]


def test_a_cancelled_run_is_told_to_stop(tmp_path):
    script = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n    pathlib.Path(sys.argv[1]).write_text('saved'); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    log = tmp_path / "run" / "log.txt"

    def interrupt():
        while not log.exists() or "ready" not in log.read_text():
            time.sleep(0.05)
        # As Ray does it: not a signal, so that no system call ends for it.
        _thread.interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        execute([sys.executable, "-c", script, str(tmp_path / "saved")], str(log))
    assert (tmp_path / "saved").read_text() == "saved"


class OneByOne:
    """Stands in for Ray, whose start takes seconds: a run is made when its result is asked for."""

    exceptions = types.SimpleNamespace(RayError=RuntimeError)

    def remote(self, **options):
        return lambda function: types.SimpleNamespace(remote=lambda *args: functools.partial(function, *args))

    def wait(self, references, num_returns):
        return references[:num_returns], references[num_returns:]

    def get(self, reference):
        return reference()

    def shutdown(self):
        pass


def execute_here(command, log):
    """`execute` in this process."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return cli.main(command[command.index("train") :])


@pytest.mark.parametrize(
    "stand_in",
    [
        pytest.param(OneByOne, marks=pytest.mark.slow),
        pytest.param(None, marks=pytest.mark.exhaustive(part="commands"), id="Ray"),
    ],
)
def test_a_failing_run_stops_no_other_and_all_go_on(stand_in, point_maze_dir, tmp_path, capsys, monkeypatch):  # noqa: F811
    if stand_in is not None:
        monkeypatch.setattr(sweep, "_start_ray", lambda address: stand_in())
        monkeypatch.setattr(sweep, "execute", execute_here)
    text = f"""
        seeds = 1
        [common]
        dataset-dir = "{point_maze_dir}"
        env-name = "{POINT_MAZE}"
        steps = 4
        batch-size = 8
        hidden = [8, 8]
        eval-episodes = 0
        [[runs]]
        algorithm = "gaussian_gcbc"
        [[runs]]
        label = "broken"
        algorithm = "gaussian_gcbc"
        dataset-dir = "{tmp_path / "nowhere"}"
        """
    spec, out = write(tmp_path / "s.toml", text), tmp_path / "out"
    assert cli.main(["sweep", str(spec), "--out", str(out)]) == 1
    errors = capsys.readouterr().err
    assert errors.count("failed: broken") == 1
    assert "there is no dataset file" in (out / "broken" / POINT_MAZE / "seed-0" / "log.txt").read_text()
    run_dir = out / "gaussian_gcbc" / POINT_MAZE / "seed-0"
    assert (run_dir / "checkpoints" / "00000004").exists()
    (run_dir / "log.txt").unlink()
    # Mended: what is finished is left alone, what failed is tried again.
    write(spec, text.replace(str(tmp_path / "nowhere"), str(point_maze_dir)))
    assert cli.main(["sweep", str(spec), "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["label"], row["failed"]) for row in rows] == [("gaussian_gcbc", 0), ("broken", 0)]
    assert (out / "broken" / POINT_MAZE / "seed-0" / "checkpoints" / "00000004").exists()
    assert not (run_dir / "log.txt").exists()


@pytest.mark.exhaustive(part="commands")
def test_an_interrupted_sweep_saves_its_runs_and_goes_on(point_maze_dir, tmp_path):  # noqa: F811
    text = f"""
        [common]
        dataset-dir = "{point_maze_dir}"
        env-name = "{POINT_MAZE}"
        batch-size = 8
        hidden = [8, 8]
        steps = 1000000
        log-interval = 50
        eval-episodes = 0
        [[runs]]
        algorithm = "gaussian_gcbc"
        """
    spec = write(tmp_path / "s.toml", text)
    run = tmp_path / "sweep" / "gaussian_gcbc" / POINT_MAZE / "seed-0"
    command = [sys.executable, "-m", "nfkern", "sweep", str(spec), "--out", str(tmp_path / "sweep")]
    steps = []
    for _ in range(2):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        before = (run / "train.csv").stat().st_size if (run / "train.csv").exists() else 0
        try:
            while process.poll() is None and not ((run / "train.csv").exists() and _grown(run / "train.csv", before)):
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == 130, errors
        assert "the same command goes on" in errors
        steps.append(max(int(path.name) for path in (run / "checkpoints").iterdir()))
    assert 0 < steps[0] < steps[1] < 1_000_000


def _grown(path, before):
    return path.stat().st_size > before + 20
