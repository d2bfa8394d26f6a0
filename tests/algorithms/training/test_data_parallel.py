"""A run on two processes is that of one, to rounding; and all of them stop together."""

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401

from nfkern.cli import commands as cli

pytestmark = pytest.mark.exhaustive(part="commands")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nfkern"]
SMALL = "--batch-size 16 --log-interval 5 --checkpoint-interval 10 --eval-episodes 0 --threads 1 --quiet"
FLOW = "--blocks 2 --hidden 8 8 --representation 4 --encoder-width 8"
TASK = POINT_MAZE.replace("-v0", "-singletask-task1-v0")


def command(algorithm, data, run_dir, *options):
    env_name = TASK if algorithm == "nf_rlbc" else POINT_MAZE
    own = [*FLOW.split(), *(["--critic-hidden", "8", "8"] if algorithm == "nf_rlbc" else [])]
    where = ["--env-name", env_name, "--dataset-dir", str(data), "--run-dir", str(run_dir)]
    return ["train", algorithm, *where, *own, *SMALL.split(), *options]


def log(run_dir):
    with open(run_dir / "train.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in rows[0] if not key.startswith("time/")}


@pytest.mark.parametrize("algorithm", ["nf_gcbc", "nf_rlbc"])
def test_two_processes_take_the_steps_of_one(algorithm, point_maze_dir, tmp_path):  # noqa: F811
    steps = ["--steps", "20"]
    assert cli.main(command(algorithm, point_maze_dir, tmp_path / "one", *steps)) == 0
    two = subprocess.run(
        [*TORCHRUN, *command(algorithm, point_maze_dir, tmp_path / "two", *steps)], capture_output=True, text=True
    )
    assert two.returncode == 0, two.stderr
    # Once, not once for each process.
    assert two.stdout.strip() == str(tmp_path / "two")
    one, other = (log(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_allclose(other[key], one[key], rtol=1e-4, atol=1e-5, err_msg=key)
    last = "checkpoints/00000020/agent.safetensors"
    weights, others = load_file(tmp_path / "one" / last), load_file(tmp_path / "two" / last)
    for key, value in weights.items():
        np.testing.assert_allclose(others[key], value, rtol=1e-3, atol=1e-5, err_msg=key)


def test_sigterm_stops_all_at_one_step(point_maze_dir, tmp_path):  # noqa: F811
    run_dir = tmp_path / "run"
    arguments = command("nf_gcbc", point_maze_dir, run_dir, "--steps", "100000")
    process = subprocess.Popen([*TORCHRUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run_dir / "checkpoints" / "00000010").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "its checkpoint is saved" in errors
    step = max(int(path.name) for path in (run_dir / "checkpoints").iterdir())
    assert step % 20 == 0


def test_what_the_first_process_refuses_ends_all(point_maze_dir, tmp_path):  # noqa: F811
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("{}")
    refused = subprocess.run(
        [*TORCHRUN, *command("nf_gcbc", point_maze_dir, tmp_path / "taken")], capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "is no run's: it lacks algorithm, env_name, config, seed" in refused.stderr


def test_batches_that_cannot_be_shared_out(point_maze_dir, tmp_path):  # noqa: F811
    odd = [*command("nf_gcbc", point_maze_dir, tmp_path / "odd"), "--batch-size", "15"]
    refused = subprocess.run([*TORCHRUN, *odd], capture_output=True, text=True)
    assert "--batch-size: expected a multiple of the 2 processes, got 15" in refused.stderr
    assert not (tmp_path / "odd").exists()
