"""TransitionDataset against OGBench's own loader, numpy, and hand-counted episodes."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dataset_fixture import POINT_MAZE, numbered_dataset, point_maze_dir  # noqa: F401

from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.data.task_rewards import RELABEL_COLUMNS, with_task_rewards
from nfkern.algorithms.envs.make import make_environment
from nfkern.errors import UserError

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any)


def test_equals_ogbench_loader(point_maze_dir):  # noqa: F811
    with warnings.catch_warnings():
        # Importing a simulator without a display warns.
        warnings.simplefilter("ignore")
        import ogbench.utils
    for split, suffix in (("train", ""), ("val", "-val")):
        expected = ogbench.utils.load_dataset(str(point_maze_dir / f"{POINT_MAZE}{suffix}.npz"))
        dataset = TransitionDataset.load(POINT_MAZE, point_maze_dir, split=split)
        regular = dataset.regular()
        assert set(regular) == set(expected)
        for key, array in expected.items():
            assert regular[key].dtype == array.dtype
            np.testing.assert_array_equal(regular[key], array)
        # The last row of each of the 10 episodes begins no transition.
        assert len(dataset) == 10 * 100 == len(expected["observations"])
        assert expected["terminals"].sum() == dataset.episodes == 10


def test_relabelled_ogbench_dataset_carries_rewards_and_masks():
    rewards, masks = np.arange(4.0) - 1, np.array([1, 0, 1, 1])
    dataset = TransitionDataset(np.zeros((4, 2)), np.zeros((4, 1)), [0, 1, 0, 1], rewards=rewards, masks=masks)
    np.testing.assert_array_equal(dataset.regular()["rewards"], [-1, 1])
    np.testing.assert_array_equal(dataset.regular()["masks"], [1, 1])


@given(LENGTHS)
def test_transitions_are_the_pairs_of_neighbouring_rows_within_an_episode(lengths):
    dataset = numbered_dataset(lengths)
    batch = dataset.regular()
    assert len(dataset) == sum(lengths) == len(batch["observations"])
    np.testing.assert_array_equal(dataset.episode_lengths, lengths)
    np.testing.assert_array_equal(batch["next_observations"][:, 0], batch["observations"][:, 0] + 1)
    np.testing.assert_array_equal(batch["next_observations"][:, 1], batch["observations"][:, 1])
    np.testing.assert_array_equal(batch["actions"][:, 0], batch["observations"][:, 0])
    assert batch["terminals"].sum() == sum(length > 0 for length in lengths)


def test_generated_files_are_mapped_and_equal_to_loaded_ones(point_maze_dir):  # noqa: F811
    mapped = TransitionDataset.load(POINT_MAZE, point_maze_dir, extras=("qpos", "button_states"))
    loaded = TransitionDataset.load(point_maze_dir / f"{POINT_MAZE}.npz", memory_map=False)
    assert isinstance(mapped.observations.base, np.memmap)
    assert loaded.observations.flags.writeable
    np.testing.assert_array_equal(mapped.observations, loaded.observations)
    # In the point maze an observation is the position; button states it has none.
    np.testing.assert_array_equal(mapped.extras["qpos"], loaded.observations)
    assert set(mapped.extras) == {"qpos"}


def test_statistics_cover_transitions_only(monkeypatch):
    monkeypatch.setattr("nfkern.algorithms.data.transitions.CHUNK", 7)
    generator = np.random.default_rng(0)
    terminals = np.zeros(60, dtype=bool)
    terminals[[19, 59]] = True
    observations = 1000 + generator.normal(size=(60, 3)) * [1, 10, 0]
    actions = generator.normal(size=(60, 2))
    actions[terminals] = 1e6
    dataset = TransitionDataset(observations, actions, terminals)
    statistics = dataset.statistics()
    for column, key in ((statistics.observations, "observations"), (statistics.actions, "actions")):
        values = dataset.regular()[key].astype(np.float64)
        # Float64 sums over 58 float32 values: the result rounds to float32 once.
        np.testing.assert_allclose(column.mean, values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(column.std, values.std(0), rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(column.min, values.min(0).astype(np.float32))
        np.testing.assert_array_equal(column.max, values.max(0).astype(np.float32))
    assert statistics.actions.max.max() < 1e6


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"observations": np.zeros(4)}, ValueError, r"observations must have 2 dimensions.*\(4,\)"),
        ({"observations": np.zeros((4, 8, 8, 3), np.uint8)}, ValueError, "observations must have 2 dimensions"),
        ({"observations": np.zeros((4, 2), dtype="U1")}, TypeError, "observations must hold numbers"),
        ({"actions": np.zeros((3, 1))}, ValueError, "actions has 3 rows, but observations has 4"),
        ({"terminals": [0, 1, 0, 0]}, ValueError, "non-zero in the last row"),
        ({"terminals": [1, 1, 1, 1]}, ValueError, "no transition"),
        ({"rewards": np.zeros(4)}, ValueError, "together"),
        ({"extras": {"qpos": np.zeros((2, 2))}}, ValueError, "qpos has 2 rows"),
    ],
)
def test_bad_arrays_name_the_argument(changes, error, says):
    arrays = {"observations": np.zeros((4, 2)), "actions": np.zeros((4, 1)), "terminals": [0, 0, 0, 1]}
    with pytest.raises(error, match=says):
        TransitionDataset(**{**arrays, **changes})


def test_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="nfkern data generate cube-single-play-v0"):
        TransitionDataset.load("cube-single-play-singletask-task1-v0", tmp_path, split="val")


def test_unusable_files_are_user_errors(tmp_path):
    np.savez(tmp_path / "lacking.npz", observations=np.zeros((2, 2)))
    (tmp_path / "text.npz").write_text("not a zip")
    for name, says in (("lacking", "lacks actions, terminals"), ("text", "not a readable npz file")):
        with pytest.raises(UserError, match=says):
            TransitionDataset.load(tmp_path / f"{name}.npz")


def test_names_cannot_lead_out_of_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"expected a dataset name .* got '\.\./x'"):
        TransitionDataset.load("../x", tmp_path)


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="split must be"):
        TransitionDataset.load("x", split="test")


@pytest.mark.parametrize("task", [1, 4])
def test_task_rewards_equal_ogbenchs(task, point_maze_dir):  # noqa: F811
    name = POINT_MAZE.replace("-v0", f"-singletask-task{task}-v0")
    dataset = TransitionDataset.load(POINT_MAZE, point_maze_dir, extras=RELABEL_COLUMNS)
    mine = with_task_rewards(dataset, name).regular()
    import ogbench

    env, train, _ = ogbench.make_env_and_datasets(name, dataset_path=str(point_maze_dir / f"{POINT_MAZE}.npz"))
    env.close()
    np.testing.assert_array_equal(mine["rewards"], train["rewards"])
    np.testing.assert_array_equal(mine["masks"], train["masks"])


def test_task_rewards_mark_where_the_goal_is_reached(point_maze_dir):  # noqa: F811
    dataset = TransitionDataset.load(POINT_MAZE, point_maze_dir, extras=RELABEL_COLUMNS)
    environment = make_environment(POINT_MAZE, task_id=3)
    environment.reset(seed=0)
    positions = dataset.extras["qpos"].copy()
    positions[[5, 300], :2] = environment.unwrapped.task_infos[2]["goal_xy"]
    environment.close()
    dataset.extras["qpos"] = positions
    relabelled = with_task_rewards(dataset, POINT_MAZE.replace("-v0", "-singletask-task3-v0"))
    reached = np.flatnonzero(relabelled.masks == 0)
    assert {5, 300} <= set(reached)
    np.testing.assert_array_equal(relabelled.rewards, np.where(relabelled.masks == 0, 0, -1))
    assert dataset.rewards is None


def test_names_without_a_task_and_files_without_positions_have_no_rewards(point_maze_dir):  # noqa: F811
    dataset = TransitionDataset.load(POINT_MAZE, point_maze_dir)
    with pytest.raises(UserError, match="such as pointmaze-medium-navigate-singletask-task1-v0; got pointmaze"):
        with_task_rewards(dataset, POINT_MAZE)
    with pytest.raises(UserError, match="has no column 'qpos'"):
        with_task_rewards(dataset, POINT_MAZE.replace("-v0", "-singletask-v0"))


@pytest.mark.slow
def test_loading_data_needs_no_simulator():
    simulators = {"gymnasium", "mujoco", "ogbench", "pymunk"}
    code = f"import sys, nfkern.algorithms.data; print({simulators} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
