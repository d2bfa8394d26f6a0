"""Generation: OGBench's schema, and files that depend on the seed alone."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from support.dataset_fixture import POINT_MAZE, point_maze_dir, point_maze_plan  # noqa: F401
from support.selected import selected

from nfkern.algorithms.data.checks import verify
from nfkern.algorithms.data.generation.episodes import EpisodeStore
from nfkern.algorithms.data.generation.generate import GenerationPlan, _watch, finished, generate, make_collector
from nfkern.algorithms.data.generation.seeding import episode_seed
from nfkern.algorithms.data.manifest import DatasetFiles, Manifest, sha256_of
from nfkern.algorithms.data.recipes import RECIPES
from nfkern.errors import UserError

ROWS = 101
# Finished in a few seconds, but not before a test can interrupt it.
LONG_PLAN = point_maze_plan(train_episodes=12, val_episodes=1, episode_rows=1001)
LONG_COMMAND = f"""
import sys
from nfkern import cli
if __name__ == "__main__":
    options = ["--transitions", "12000", "--workers", "2", "--dataset-dir", sys.argv[1]]
    sys.exit(cli.main(["data", "generate", {POINT_MAZE!r}, *options]))
"""


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


def store_of(directory: Path) -> EpisodeStore:
    return EpisodeStore(DatasetFiles(directory, POINT_MAZE).partial)


def parameters_of(plan: GenerationPlan) -> dict[str, object]:
    return {**plan.parameters, "versions": plan.versions}


@pytest.mark.parametrize("suffix", ["", "-val"])
def test_schema_is_ogbench_s(point_maze_dir, suffix):  # noqa: F811
    arrays = read(point_maze_dir / f"{POINT_MAZE}{suffix}.npz")
    dtypes = {
        "observations": "float32",
        "actions": "float32",
        "terminals": "bool",
        "qpos": "float32",
        "qvel": "float32",
    }
    assert {key: array.dtype.name for key, array in arrays.items()} == dtypes
    assert {array.shape for key, array in arrays.items() if key != "terminals"} == {(10 * ROWS, 2)}
    np.testing.assert_array_equal(np.flatnonzero(arrays["terminals"]), np.arange(1, 11) * ROWS - 1)
    assert abs(arrays["actions"]).max() == 1


def test_the_point_mass_moves_as_its_actions_say(point_maze_dir):  # noqa: F811
    arrays = read(point_maze_dir / f"{POINT_MAZE}.npz")
    steps, actions = np.diff(arrays["observations"], axis=0), arrays["actions"][:-1]
    inside = ~arrays["terminals"][:-1]
    error = abs(steps - 0.2 * actions).max(1)[inside]
    # Most steps touch no wall; across an episode's end the observation jumps.
    assert np.median(error) < 1e-3
    # Episodes differ: each has its own seed.
    assert len(np.unique(arrays["observations"][::ROWS], axis=0)) == 10


def test_manifest_names_everything_that_decides_the_data(point_maze_dir):  # noqa: F811
    content = json.loads((point_maze_dir / f"{POINT_MAZE}.json").read_text())
    assert content["parameters"]["seed"] == 0
    assert content["parameters"]["recipe"]["action_noise"] == 0.5
    assert set(content["versions"]) == {"nfkern", "ogbench", "mujoco", "gymnasium", "numpy"}
    assert "local sample" in content["note"]
    for name, checksum in content["sha256"].items():
        assert sha256_of(point_maze_dir / name) == checksum
    assert not list(point_maze_dir.glob("*.partial"))
    assert all(finding.problem is None for finding in verify(POINT_MAZE, point_maze_dir))


@pytest.mark.slow
def test_files_depend_neither_on_workers_nor_on_an_interruption(point_maze_dir, tmp_path):  # noqa: F811
    """Two workers continue a generation of which one worker made these episodes."""
    plan, store = point_maze_plan(), store_of(tmp_path)
    store.open(parameters_of(plan), discard_other=False)
    arrays = read(point_maze_dir / f"{POINT_MAZE}.npz")
    for episode in (0, 3, 4, 9):
        rows = slice(episode * ROWS, (episode + 1) * ROWS)
        store.write("train", episode, {key: array[rows] for key, array in arrays.items()})
    # What a killed worker leaves.
    (store.folder / ".train-000005.npz.123.tmp").write_bytes(b"half")
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 (the oracles draw from it)
    manifest = generate(plan, tmp_path, workers=2, progress=False)
    # What the simulators need to be told stays in the workers.
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert os.environ.get("MUJOCO_GL") != "disabled"
    assert manifest == Manifest.read(point_maze_dir / f"{POINT_MAZE}.json")
    assert not store.folder.exists()


def test_an_equal_dataset_is_left_alone(point_maze_dir):  # noqa: F811
    file = point_maze_dir / f"{POINT_MAZE}.npz"
    before = file.stat().st_mtime_ns
    assert generate(point_maze_plan(), point_maze_dir) == finished(point_maze_plan(), point_maze_dir)
    assert file.stat().st_mtime_ns == before


def test_other_parameters_are_refused_and_named(point_maze_dir):  # noqa: F811
    with pytest.raises(UserError, match=r"seed 0 instead of 1.*--overwrite"):
        generate(point_maze_plan(seed=1), point_maze_dir)
    with pytest.raises(UserError, match="episode_rows 101 instead of 51"):
        generate(point_maze_plan(episode_rows=51), point_maze_dir)


def test_files_of_other_origin_are_refused(tmp_path):
    (tmp_path / f"{POINT_MAZE}-val.npz").touch()
    with pytest.raises(UserError, match=r"already holds .*-val\.npz \(without a manifest\).*--overwrite"):
        generate(point_maze_plan(), tmp_path)
    Manifest(POINT_MAZE, "downloaded", {}).write(tmp_path / f"{POINT_MAZE}.json")
    with pytest.raises(UserError, match="downloaded"):
        generate(point_maze_plan(), tmp_path)


def test_unfinished_data_with_other_parameters_or_versions_are_refused(tmp_path):
    plan = point_maze_plan()
    old = {**plan.parameters, "versions": {**plan.versions, "mujoco": "1.0"}}
    store_of(tmp_path).open(old, discard_other=False)
    with pytest.raises(UserError, match=r"interrupted generation.*mujoco 1\.0 instead of.*--overwrite"):
        generate(plan, tmp_path)


def test_a_damaged_manifest_is_a_user_error(tmp_path):
    (tmp_path / f"{POINT_MAZE}.json").write_text("{}")
    with pytest.raises(UserError, match="no manifest"):
        generate(point_maze_plan(), tmp_path)


def test_workers_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        generate(point_maze_plan(), tmp_path, workers=0)


def test_overwrite_discards_unfinished_episodes_with_other_parameters(tmp_path):
    store = store_of(tmp_path)
    store.open({"seed": 1}, discard_other=False)
    store.write("train", 0, {"actions": np.zeros(1)})
    store.open({"seed": 2}, discard_other=True)
    assert store.missing([("train", 0)]) == [("train", 0)]
    assert store.matches({"seed": 2})


def test_every_episode_has_its_own_seed():
    states = {
        tuple(episode_seed(seed, split, index).generate_state(4))
        for seed in (0, 1)
        for split in ("train", "val")
        for index in range(50)
    }
    assert len(states) == 200


def _wait_for_episodes(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(store_of(directory).folder.glob("[tv]*.npz"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _start(tmp_path: Path, directory: Path) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    script.write_text(LONG_COMMAND)
    # A session of its own: signals to its group reach the workers as Ctrl-C in a terminal would.
    return subprocess.Popen(
        [sys.executable, str(script), str(directory)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The manifest of `LONG_PLAN`, generated without an interruption."""
    return generate(LONG_PLAN, tmp_path_factory.mktemp("whole"), workers=1, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_any_moment_or_interrupted_by_ctrl_c_the_result_is_the_same(number, whole, tmp_path):
    directory = tmp_path / "interrupted"
    process = _start(tmp_path, directory)
    _wait_for_episodes(directory, 3)
    os.killpg(process.pid, number)
    _, errors = process.communicate()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "repeat the command to continue" in errors
        assert "Traceback" not in errors
    assert len(list(store_of(directory).folder.glob("[tv]*.npz"))) < len(LONG_PLAN.episodes)
    assert generate(LONG_PLAN, directory, workers=1, progress=False) == whole


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.mark.exhaustive(part="data")
def test_ctrl_c_while_a_worker_imports_is_quiet(tmp_path):
    """glfw, which gymnasium imports, asks a process of its own for the library's version."""
    process = _start(tmp_path, tmp_path / "data")
    deadline = time.monotonic() + 60
    while not any(_children(worker) for worker in _children(process.pid)):
        assert time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.exhaustive(part="data")
def test_a_killed_worker_is_reported_and_costs_one_episode(tmp_path):
    directory = tmp_path / "data"
    process = _start(tmp_path, directory)
    _wait_for_episodes(directory, 2)
    # The last child is the younger worker (an older one is the resource tracker).
    os.kill(_children(process.pid)[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "run the same command again to continue" in errors
    assert "Traceback" not in errors
    kept = list(store_of(directory).folder.glob("[tv]*.npz"))
    assert len(kept) >= 2
    for path in kept:
        assert set(read(path)) == {"observations", "actions", "terminals", "qpos", "qvel"}


def test_a_worker_that_is_gone_between_two_looks_is_reported():
    reading, writing = os.pipe()
    os.close(writing)

    class Dying:
        """Its files are closed already, its exit code follows at the second look."""

        sentinel = reading
        codes = iter([None])

        @property
        def exitcode(self):
            return next(self.codes, -signal.SIGKILL)

        def is_alive(self):
            return self.exitcode is None

    with pytest.raises(UserError, match="a worker stopped with exit code -9; finished episodes are kept"):
        _watch(LONG_PLAN, [Dying()], [0], 13, progress=False)
    os.close(reading)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    selected(
        ["cube-single-play-v0", "cube-single-noisy-v0", "scene-play-v0", "puzzle-3x3-play-v0"],
        ["cube-single-noisy-v0"],
        part="data",
    ),
)
def test_manipulation_data_depend_on_the_seed_alone(name, tmp_path):
    """A worker makes two episodes; another process makes them in the opposite order."""
    recipe = dataclasses.replace(RECIPES[name], episode_rows=101)
    manifest = generate(GenerationPlan(recipe, 1, 1, seed=3), tmp_path, workers=1, progress=False)
    train, val = (read(tmp_path / file) for file in manifest.sha256)
    with warnings.catch_warnings():
        # Importing a simulator without a display warns.
        warnings.simplefilter("ignore")
        collector = make_collector(recipe)
    for split, generated in (("val", val), ("train", train)):
        again = collector.collect(episode_seed(3, split, 0))
        assert {key: array.tobytes() for key, array in again.items()} == {
            key: array.tobytes() for key, array in generated.items()
        }
    assert ("button_states" in train) == (not name.startswith("cube"))
    assert train["qpos"].dtype == train["observations"].dtype == np.float32
    assert {len(array) for array in train.values()} == {101}
    assert np.flatnonzero(train["terminals"]).tolist() == [100]
    if "button_states" in train:
        assert train["button_states"].dtype == np.int64
    # Another seed is another episode, and the arm moves.
    assert not np.array_equal(train["actions"], val["actions"])
    assert train["observations"].std(0).max() > 0.1
