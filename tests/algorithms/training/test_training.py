"""Training runs: the same seed gives the same run, and an interrupted one loses nothing."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest
from safetensors.torch import load_file
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401
from support.evaluation_policies import cut_episodes
from support.selected import exhaustive

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data.manifest import sha256_of
from nfkern.algorithms.runs.log import CsvLog
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training import offline as training
from nfkern.algorithms.training.offline import train
from nfkern.cli import commands as cli
from nfkern.errors import UserError
from nfkern.host.progress import leave_out, progress_bar

SMALL = {"blocks": 2, "hidden": (8, 8), "representation": 4, "encoder_width": 8, "batch_size": 16, "warmup_steps": 5}


def run(data, folder, **options):
    settings = {"eval_episodes": 0, "log_interval": 5, "checkpoint_interval": 10, "quiet": True} | options
    config = AGENTS["nf_gcbc"].config_class(**SMALL, steps=40)
    return train("nf_gcbc", config, RunSettings(POINT_MAZE, run_dir=folder, dataset_dir=data, **settings))


def outcome(run_dir):
    """Everything that must not depend on when a run was interrupted: metrics without times, and the final state."""
    with open(run_dir / "train.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]
    last = sorted((run_dir / "checkpoints").iterdir())[-1]
    tensors = load_file(last / "agent.safetensors") | load_file(last / "training.safetensors")
    state = json.loads((last / "training.json").read_text())
    return rows, {name: tensor.tolist() for name, tensor in tensors.items()}, state


def test_same_seed_same_run_other_seed_other_run(point_maze_dir, tmp_path):  # noqa: F811
    first, second, other = (
        outcome(run(point_maze_dir, tmp_path / name, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == second
    assert first[1] != other[1]
    assert [row["step"] for row in first[0]] == [str(step) for step in range(5, 41, 5)]


def test_logs_and_checkpoints(point_maze_dir, tmp_path):  # noqa: F811
    run_dir = run(point_maze_dir, tmp_path / "run")
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["00000030", "00000040"]
    header = json.loads((run_dir / "config.json").read_text())
    assert (header["algorithm"], header["env_name"], header["seed"]) == ("nf_gcbc", POINT_MAZE, 0)
    assert header["config"]["hidden"] == [8, 8]
    assert list((run_dir / "tensorboard").glob("events.*"))
    (first, *_), _, _ = outcome(run_dir)
    assert {"step", "training/actor/loss", "validation/actor/loss", "training/learning_rate"} <= set(first)


COMMAND = [
    *("train", "nf_gcbc", "--env-name", POINT_MAZE, "--eval-episodes", "0"),
    *("--log-interval", "5", "--checkpoint-interval", "10", "--quiet", "--threads", "1", "--steps", "400"),
    *("--blocks", "2", "--hidden", "8", "8", "--representation", "4", "--encoder-width", "8"),
    *("--batch-size", "16", "--warmup-steps", "5"),
]


@pytest.fixture(scope="module")
def straight(point_maze_dir, tmp_path_factory):  # noqa: F811
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    assert cli.main([*COMMAND, "--dataset-dir", str(point_maze_dir), "--run-dir", str(run_dir)]) == 0
    return outcome(run_dir)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, exhaustive(signal.SIGTERM, part="commands")])
def test_interrupted_runs_end_where_uninterrupted_ones_do(number, straight, point_maze_dir, tmp_path):  # noqa: F811
    command = [*COMMAND, "--resume", "--dataset-dir", str(point_maze_dir), "--run-dir", str(tmp_path / "broken")]
    process = subprocess.Popen([sys.executable, "-m", "nfkern", *command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "broken" / "checkpoints").glob("0*50")):
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert "--resume continues it exactly" in errors
        assert "Traceback" not in errors
    assert not list((tmp_path / "broken" / "checkpoints").glob("*400"))
    assert cli.main(command) == 0
    assert outcome(tmp_path / "broken") == straight


def test_the_speed_in_the_log_is_that_of_training_without_evaluations(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    evaluated, clock = [], time.perf_counter
    # An evaluation takes a minute by the clock, and no time.
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 60 * len(evaluated))

    monkeypatch.setattr(training.OfflineTraining, "evaluate", lambda self, step, signals: evaluated.append(step))
    run_dir = run(point_maze_dir, tmp_path / "run", eval_episodes=1, eval_interval=20)
    assert evaluated == [20, 40]
    with open(run_dir / "train.csv", newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert 5 / float(rows[25]["time/steps_per_second"]) < 60
    assert float(rows[25]["time/seconds"]) - float(rows[20]["time/seconds"]) > 60


def test_evaluations_are_no_part_of_the_bars_speed():
    bar = progress_bar(total=10, file=io.StringIO())
    bar.update(5)
    before = bar.format_dict["elapsed"]
    time.sleep(0.2)
    leave_out(bar, 0.2)
    assert bar.format_dict["elapsed"] < before + 0.1
    bar.close()
    leave_out(progress_bar(total=10, disable=True), 0.2)


def test_a_folder_holds_one_run(point_maze_dir, tmp_path):  # noqa: F811
    run(point_maze_dir, tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        run(point_maze_dir, tmp_path / "run")
    with pytest.raises(UserError, match="holds another run: seed 0 there, 3 now; choose another --run-dir"):
        run(point_maze_dir, tmp_path / "run", seed=3, resume=True)
    before = outcome(tmp_path / "run")
    run(point_maze_dir, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == before


def test_missing_data_leave_no_run_behind(tmp_path):
    with pytest.raises(UserError, match="nfkern data generate"):
        run(tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="log_interval: expected at least 1, got 0"):
        RunSettings(POINT_MAZE, log_interval=0)


@pytest.mark.parametrize(
    "flags",
    ["--gamma 1.5", "--device gpu", "--warmup-steps -5", "--hidden 0 8", "--blocks 0", "--seed -1", "--noise-std -1"],
)
def test_bad_settings_leave_no_run_behind(flags, point_maze_dir, tmp_path, capsys):  # noqa: F811
    folder = ["--dataset-dir", str(point_maze_dir), "--run-dir", str(tmp_path / "run")]
    code = cli.main(["train", "nf_gcbc", "--env-name", POINT_MAZE, "--steps", "2", "--quiet", *folder, *flags.split()])
    assert code in (1, 2)
    error = capsys.readouterr().err.strip()
    assert error.startswith("nfkern train nf_gcbc: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_other_data_are_noticed(point_maze_dir, tmp_path):  # noqa: F811
    run(point_maze_dir, tmp_path / "run")
    other = tmp_path / "data"
    shutil.copytree(point_maze_dir, other)
    with np.load(other / f"{POINT_MAZE}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    # The digest is that of the file, with or without a manifest.
    (other / f"{POINT_MAZE}.json").unlink()
    np.savez(other / f"{POINT_MAZE}.npz", **arrays | {"actions": -arrays["actions"]})
    digest = sha256_of(other / f"{POINT_MAZE}.npz")
    with pytest.raises(UserError, match=f"holds another run: dataset .* there, {digest} now"):
        run(other, tmp_path / "run", resume=True)


def test_one_process_at_a_time(point_maze_dir, tmp_path):  # noqa: F811
    with Run(tmp_path / "run").locked(), pytest.raises(UserError, match="another process is training in"):
        run(point_maze_dir, tmp_path / "run")
    leftover = tmp_path / "run" / "checkpoints" / ".00000010.abc"
    leftover.mkdir(parents=True)
    run(point_maze_dir, tmp_path / "run")
    assert not leftover.exists()


def test_training_in_a_thread(point_maze_dir, tmp_path):  # noqa: F811
    thread = threading.Thread(target=run, args=(point_maze_dir, tmp_path / "run"))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "checkpoints" / "00000040").is_dir()


@pytest.mark.slow
def test_evaluations_are_logged_and_made_up_for(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    from nfkern.algorithms.evaluation import evaluate as evaluation

    original, calls = evaluation.evaluate, []

    def failing(*args, **kwargs):
        calls.append(kwargs["label"])
        if len(calls) == 1:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    options = {"eval_episodes": 2, "eval_interval": 20}
    cut_episodes(monkeypatch, 20)
    straight = run(point_maze_dir, tmp_path / "straight", **options)
    monkeypatch.setattr(evaluation, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        run(point_maze_dir, tmp_path / "broken", **options)
    broken = run(point_maze_dir, tmp_path / "broken", **options, resume=True)
    assert [label.rsplit(" ", 1)[0] for label in calls] == ["nf_gcbc 00000020"] * 2 + ["nf_gcbc 00000040"]
    assert (broken / "eval.csv").read_text() == (straight / "eval.csv").read_text()
    assert [line.split(",")[0] for line in (broken / "eval.csv").read_text().splitlines()] == ["step", "20", "40"]
    assert outcome(broken) == outcome(straight)


@pytest.mark.exhaustive(part="commands")
def test_evaluations_by_workers_are_the_same(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    from nfkern.algorithms.evaluation import evaluate as evaluation

    original, seen = evaluation.evaluate, []

    def short(*args, **kwargs):
        seen.append(kwargs["workers"])
        return original(*args, **kwargs, block_size=2)

    monkeypatch.setattr(evaluation, "evaluate", short)
    runs = [
        run(point_maze_dir, tmp_path / str(workers), eval_episodes=2, eval_workers=workers, threads=1)
        for workers in (1, 2)
    ]
    assert seen == [1, 2]
    (first,), (second,) = (list((path / "evaluations").iterdir()) for path in runs)
    assert first.name == second.name
    assert first.read_text() == second.read_text()
    with pytest.raises(ValueError, match="eval_workers: expected at least 1, got 0"):
        RunSettings(POINT_MAZE, eval_workers=0)


def test_an_empty_log_is_no_log(tmp_path):
    path = tmp_path / "log.csv"
    path.touch()
    CsvLog(path, 5).append({"step": 6, "loss": 1.0})
    CsvLog(path, 6)
    assert path.read_text().split() == ["step,loss", "6,1.0"]


def test_csv_log_drops_half_rows_and_what_lies_beyond(tmp_path):
    path = tmp_path / "log.csv"
    log = CsvLog(path, 0)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": step / 10})
    with open(path, "a") as file:
        file.write("4")
    CsvLog(path, 2).append({"step": 3, "loss": 0.9})
    assert path.read_text().split() == ["step,loss", "1,0.1", "2,0.2", "3,0.9"]


def test_tracking_without_wandb_says_what_to_install(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--track needs Weights & Biases: `pip install wandb`"):
        run(point_maze_dir, tmp_path / "run", track=True)
    assert not (tmp_path / "run").exists()


def test_tracking_that_fails_to_start_leaves_no_run_behind(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    def refuse(**options):
        raise OSError("no network")

    fake = types.ModuleType("wandb")
    fake.init = refuse
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(OSError, match="no network"):
        run(point_maze_dir, tmp_path / "run", track=True)
    assert not (tmp_path / "run").exists()


def test_tracking_sends_everything_to_wandb(point_maze_dir, tmp_path, monkeypatch):  # noqa: F811
    calls = []

    class Run:
        def log(self, metrics, step):
            calls.append((step, set(metrics)))

        def finish(self):
            calls.append("finished")

    fake = types.ModuleType("wandb")
    fake.init = lambda **options: calls.append(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run(point_maze_dir, tmp_path / "run", track=True)
    options, *logged, end = calls
    assert options["project"] == "nfkern"
    assert options["config"]["algorithm"] == "nf_gcbc"
    assert [step for step, _ in logged] == list(range(5, 41, 5))
    assert all("training/actor/loss" in names for _, names in logged)
    assert end == "finished"
