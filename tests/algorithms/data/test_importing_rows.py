"""Files of one's own: which rows are steps, where episodes end, and what is refused by name."""

import os
from pathlib import Path

import numpy as np
import pytest
from support.imported_dataset import NAME, imported, same_steps, transitions
from support.published_demonstrations import random

from nfkern.algorithms.data import TransitionDataset
from nfkern.errors import UserError


def npz(folder: Path, **changes: object) -> Path:
    arrays = {"observations": random(6, 3), "actions": random(6, 2), "terminals": [0, 1, 0, 0, 0, 1]}
    np.savez(folder / "mine.npz", **{key: each for key, each in (arrays | changes).items() if each is not None})
    return folder / "mine.npz"


def test_one_step_and_single_episodes_are_kept(tmp_path: Path) -> None:
    manifest = imported(npz(tmp_path, terminals=[1, 0, 1, 1, 0, 0]), tmp_path)
    assert (manifest.parameters["episodes"], manifest.parameters["transitions"]) == (4, 6)
    manifest = imported(npz(tmp_path, terminals=[0, 0, 0, 0, 0, 1]), tmp_path)
    assert [len(TransitionDataset.load(NAME, tmp_path, split=split)) for split in ("train", "val")] == [6, 6]
    assert any("the one episode is in both splits" in note for note in manifest.parameters["notes"])
    manifest = imported(npz(tmp_path, terminals=None, episode_ends=[2, 4]), tmp_path)
    assert manifest.parameters["transitions"] == 6
    assert any("rows 4 to 5 come after the last end" in note for note in manifest.parameters["notes"])


def test_rows_of_ogbenchs_files_stay_as_they_are(tmp_path: Path) -> None:
    """Their last rows are no steps: told by their columns, or by actions that nobody took; a flag wins."""
    steps = {}
    for key, changes in {
        "plain": {},
        "relabelled": {"qpos": random(6, 4)},
        "idle": {"actions": random(6, 2) * [[1], [0], [1], [1], [1], [0]]},
        "valued": {"rewards": np.arange(6), "masks": np.ones(6)},
    }.items():
        steps[key] = imported(npz(tmp_path, **changes), tmp_path).parameters["transitions"]
    assert steps == {"plain": 6, "relabelled": 4, "idle": 4, "valued": 4}
    imported(npz(tmp_path, qpos=random(6, 4)), tmp_path)
    same_steps(transitions(tmp_path, ("qpos",)), {"qpos": random(6, 4)[[0, 2, 3, 4]]})
    assert imported(npz(tmp_path, qpos=random(6, 4)), tmp_path, last_row="step").parameters["transitions"] == 6
    # What was decided without a word of the file is said.
    assert any("--last-row state" in note for note in imported(npz(tmp_path), tmp_path).parameters["notes"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"actions": np.arange(6)}, r"actions: expected continuous actions, got discrete ones \(int64"),
        ({"actions": np.zeros((6, 1), np.uint8)}, "got discrete ones"),
        ({"actions": np.zeros((6, 3), bool)}, r"got discrete ones \(bool, 3 for each step\)"),
        ({"actions": np.array(["left"] * 6)}, "actions: expected vectors of numbers, got <U4, no numbers"),
        ({"observations": np.zeros((6, 8, 8, 3), np.uint8)}, r"observations \(images\)"),
        ({"observations": np.array([{}] * 6, object)}, r"observations \(objects or text\)"),
        ({"obs": random(6, 3)}, r"observations and obs could both be meant: choose with --observation-keys"),
        ({"observations": np.where(np.arange(18).reshape(6, 3) == 13, np.nan, 0)}, "got nan in row 4, feature 1, of"),
        (
            {"rewards": np.array([0, 1, 2, np.inf, 4, 5])},
            "rewards: .* got inf in row 3 of .*--no-rewards leaves",
        ),
        ({"observations": np.full((6, 3), 1e300)}, "finite numbers up to 1.7e\\+38, got 1e\\+300 in row 0"),
        ({"observations": np.full((6, 3), -3e38)}, "finite numbers up to 1.7e\\+38, got -3e\\+38 in row 0"),
        (
            {"actions": np.arange(12).reshape(6, 2)},
            r"discrete ones \(int64, 2 for .*: --action-key actions\)",
        ),
        ({"rewards": np.zeros((6, 2))}, "expected one number for each step in rewards, got 2 float64"),
        ({"timeouts": np.full(6, 0.5)}, "expected one flag, 0 or 1, for each step in timeouts"),
        ({"rewards": np.zeros(6), "masks": np.full(6, 0.9)}, "expected one flag, 0 or 1, for each step in masks"),
        ({"rewards": np.zeros(5)}, "expected rewards of all 6 steps, got 5"),
        ({"next_observations": random(5, 3)}, "expected next observations of all 6 steps, got 5"),
        ({"next_observations": random(6, 4)}, "next observations of the size of the observations, 3, got 4"),
        ({"qpos": random(3, 3)}, "expected qpos of all 6 observations, got 3"),
        ({"terminals": None, "episode_ends": np.array([4, 2], np.uint64)}, "growing numbers from 1 to 6"),
        ({"terminals": None, "episode_ends": [2, 9]}, "growing numbers from 1 to 6"),
        ({"terminals": [0] * 6}, "nothing says where episodes end"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_by_name(changes: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        imported(npz(tmp_path, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_last_step_of_unknown_end_is_counted_once(tmp_path: Path) -> None:
    """A flag one row late leaves an episode of one row, whose only step led nobody knows where."""
    flags = {"terminals": [0, 0, 1, 0, 0, 1], "timeouts": [0, 0, 0, 1, 0, 0]}
    manifest = imported(npz(tmp_path, rewards=np.arange(6), **flags), tmp_path)
    assert manifest.parameters["transitions"] == 5
    assert [note for note in manifest.parameters["notes"] if "left out" in note] == [
        "left out: 1 episode of at most one row, from which no transition to a known state begins"
    ]


def test_next_observations_in_fewer_digits_break_no_episode(tmp_path: Path) -> None:
    states = np.random.default_rng(0).normal(size=(7, 3))
    arrays = {"observations": states[:-1], "next_observations": states[1:].astype(np.float32)}
    manifest = imported(npz(tmp_path, **arrays, terminals=[0, 0, 1, 0, 0, 1]), tmp_path)
    assert (manifest.parameters["episodes"], manifest.parameters["transitions"]) == (2, 6)


@pytest.mark.parametrize("flags", [("terminals", "dones"), ("dones", "timeouts"), ("next.done", "next.truncated")])
def test_flags_of_any_end_cut_episodes_and_end_only_what_no_other_flag_speaks_for(
    flags: tuple[str, str], tmp_path: Path
) -> None:
    """Flags that mark any end, beside those of one kind: the first episode ended, the others were cut."""
    end, cut, any_end = np.eye(6)[1], np.eye(6)[[3, 5]].sum(0), np.eye(6)[[1, 3, 5]].sum(0)
    values = (end, any_end) if flags[0] == "terminals" else (any_end, cut)
    arrays = {"terminals": None, "rewards": np.arange(6)} | dict(zip(flags, values, strict=True))
    imported(npz(tmp_path, next_observations=random(7, 3)[1:], observations=random(7, 3)[:-1], **arrays), tmp_path)
    mine = transitions(tmp_path)
    assert len(mine["rewards"]) == 6
    assert mine["rewards"][mine["masks"] == 0].tolist() == [1]
    # And without rewards or states after them, where no break shows the ends.
    manifest = imported(npz(tmp_path, **arrays), tmp_path, rewards=False)
    assert manifest.parameters["episodes"] == 3


def test_columns_that_nothing_has_to_read_stop_nothing(tmp_path: Path) -> None:
    goals = np.where(np.arange(12).reshape(6, 2) == 3, np.nan, 0)
    manifest = imported(npz(tmp_path, desired_goal=goals, episode_ends=[2, 6]), tmp_path)
    assert any("desired_goal: 1 values are not finite" in note for note in manifest.parameters["notes"])
    assert len(transitions(tmp_path)["actions"]) == 6


def test_whole_numbers_as_actions_are_pointed_out(tmp_path: Path) -> None:
    def pointed_out(actions: np.ndarray) -> bool:
        manifest = imported(npz(tmp_path, actions=actions), tmp_path)
        return any("whole numbers" in note for note in manifest.parameters["notes"])

    assert pointed_out(np.arange(6.0))
    assert not pointed_out(np.arange(6.0) + 0.5)
    # Integers that are no choices, as the user says.
    numbers = npz(tmp_path, actions=np.arange(12).reshape(6, 2))
    assert imported(numbers, tmp_path, action_key="actions").parameters["episodes"] == 2


def test_damage_and_what_is_no_file_are_told_without_a_librarys_words(tmp_path: Path) -> None:
    path = npz(tmp_path)
    damaged = bytearray(path.read_bytes())
    # The version that is needed to read the first entry.
    damaged[damaged.index(b"PK\x01\x02") + 6] = 255
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"mine.npz cannot be read as mine-v0: the file is damaged"):
        imported(path, tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="got neither a file nor a folder"):
        imported(tmp_path / "pipe", tmp_path / "out")


def test_flags_that_look_like_a_time_limit_are_asked_about(tmp_path: Path) -> None:
    def masks(flags: list[int], **options: object) -> list[float]:
        imported(npz(tmp_path, rewards=np.arange(6), terminals=flags), tmp_path, **options)
        masks = TransitionDataset.load(NAME, tmp_path).masks
        assert masks is not None
        return masks.tolist()

    with pytest.raises(
        UserError, match="all episodes have 2 steps, and terminals alone .*--terminals cut .*--terminals"
    ):
        masks([0, 1, 0, 1, 0, 1])
    with pytest.raises(UserError, match="all episodes but the last have 4 steps"):
        masks([0, 0, 0, 1, 0, 1])
    assert 0 in masks([0, 1, 0, 1, 0, 1], terminals="end")
    assert 0 not in masks([0, 1, 0, 1, 0, 1], terminals="cut")
    assert 0 in masks([0, 1, 0, 0, 0, 1])


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({}, {"split_masks": ("train", "valid")}, "--split-masks: npz has no lists of episodes"),
        ({"next_observations": random(6, 3)}, {"last_row": "state"}, "--last-row: next_observations say"),
        ({"timeouts": [0] * 6, "rewards": [0] * 6}, {"terminals": "cut"}, "--terminals: timeouts says"),
        ({}, {"action_key": "move"}, r"--action-key: there is no move; it holds actions \(2 float32\)"),
    ],
)
def test_flags_about_what_the_file_states_itself_are_refused(
    changes: dict, options: dict, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        imported(npz(tmp_path, **changes), tmp_path / "out", **options)


def test_single_numbers_are_vectors_of_one(tmp_path: Path) -> None:
    imported(npz(tmp_path, observations=random(6), actions=random(6)), tmp_path)
    data = TransitionDataset.load(NAME, tmp_path)
    assert (data.observation_size, data.action_size) == (1, 1)
