"""Sweeps: what a spec says, runs on Ray of which one fails, a table over seeds, and going on."""

import csv
import json
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401

from nfkern import cli
from nfkern.algorithms.sweep import execute
from nfkern.algorithms.sweep_spec import Sweep, SweepRun
from nfkern.algorithms.sweep_summary import summarize, table
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
    sweep = Sweep.load(spec)
    assert (sweep.cpus, sweep.gpus) == (2, 0.5)
    assert [run.name for run in sweep.runs] == [
        *(f"nf_gcbc/{task}/seed-{seed}" for task in ("a-v0", "b-v0") for seed in (3, 5)),
        *(f"wide/c-v0/seed-{seed}" for seed in (3, 5)),
    ]
    first = "nf_gcbc --env-name a-v0 --seed 3 --steps 10 --hidden 8 16 --no-denoise"
    assert sweep.runs[0].arguments == tuple(first.split())
    last = "nf_gcbc --env-name c-v0 --seed 5 --steps 20 --learning-rate 0.0001 --flow causal"
    assert sweep.runs[-1].arguments == tuple(last.split())
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
    ],
)
def test_what_is_wrong_with_a_spec(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Sweep.load(write(tmp_path / "s.toml", text))
    with pytest.raises(UserError, match="No such file"):
        Sweep.load(tmp_path / "missing.toml")


def test_settings_that_no_run_would_take(tmp_path, capsys):
    spec = write(tmp_path / "s.toml", RUN + "stepps = 10\n")
    assert cli.main(["sweep", str(spec)]) == 1
    assert "settings that `nfkern train nf_gcbc` does not take" in capsys.readouterr().err
    assert cli.main(["sweep", str(write(spec, RUN + "steps = 0\n")), "--dry-run"]) == 1
    assert "nf_gcbc: steps: expected at least 1, got 0" in capsys.readouterr().err


def make_run(folder, name, tasks):
    """A finished run's folder, with the success of its last evaluation."""
    (folder / name).mkdir(parents=True)
    with open(folder / name / "eval.csv", "w", newline="") as file:
        fields = ["step", "evaluation/success", *(f"evaluation/success_task{k + 1}" for k in range(len(tasks)))]
        writer = csv.writer(file)
        writer.writerow(fields)
        writer.writerow([10, 0.0, *[0.0] * len(tasks)])
        writer.writerow([20, float(np.mean(tasks)), *tasks])


def test_the_table_is_over_seeds_beside_the_published_number(tmp_path):
    env_name = "cube-single-play-v0"
    runs = [SweepRun(f"nf/{seed}", "nf", env_name, seed, ("nf_gcbc",)) for seed in range(4)]
    scores = [[0.9, 0.1, 0.5, 0.5, 0.5], [0.8, 0.2, 0.6, 0.4, 0.5], [1.0, 0.0, 0.9, 0.9, 0.7]]
    for run, tasks in zip(runs, scores, strict=False):
        make_run(tmp_path, run.name, tasks)
    (row,) = summarize(runs, tmp_path, dict.fromkeys([run.name for run in runs[:3]], "finished") | {"nf/3": "failed"})
    means = 100 * np.mean(scores, 1)
    assert (row.seeds, row.failed, row.published) == (3, 1, 79.5)
    assert row.mean == pytest.approx(means.mean())
    assert row.std == pytest.approx(means.std(ddof=1))
    # 15 scores: the middle half is all but the lowest and highest three.
    assert row.iqm == pytest.approx(100 * np.sort(np.ravel(scores))[3:-3].mean())
    assert row.low < row.mean < row.high
    assert "1 failed" in list(table([row]))[1]
    (alone,) = summarize(runs[3:], tmp_path, {})
    assert (alone.seeds, np.isnan(alone.mean)) == (0, True)
    offline = {"nf_rlbc": 97.6, "fql": None}
    for algorithm, expected in offline.items():
        task = SweepRun("x", "x", "puzzle-3x3-play-singletask-task3-v0", 0, (algorithm,))
        assert summarize([task], tmp_path, {})[0].published == expected


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
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        execute([sys.executable, "-c", script, str(tmp_path / "saved")], str(log))
    assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.slow
def test_a_failing_run_stops_no_other_and_all_go_on(point_maze_dir, tmp_path, capsys):  # noqa: F811
    text = f"""
        seeds = 2
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
    assert errors.count("failed: broken") == 2
    assert "there is no dataset file" in (out / "broken" / POINT_MAZE / "seed-1" / "log.txt").read_text()
    for seed in (0, 1):
        run_dir = out / "gaussian_gcbc" / POINT_MAZE / f"seed-{seed}"
        assert (run_dir / "checkpoints" / "00000004").exists()
        (run_dir / "log.txt").unlink()
    # Mended: what is finished is left alone, what failed is tried again.
    write(spec, text.replace(str(tmp_path / "nowhere"), str(point_maze_dir)))
    assert cli.main(["sweep", str(spec), "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["label"], row["failed"]) for row in rows] == [("gaussian_gcbc", 0), ("broken", 0)]
    assert (out / "broken" / POINT_MAZE / "seed-0" / "checkpoints" / "00000004").exists()
    assert not (out / "gaussian_gcbc" / POINT_MAZE / "seed-0" / "log.txt").exists()
