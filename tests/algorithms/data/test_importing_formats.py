"""Formats with dictionaries, rewards and splits of their own: every step comes out, or is counted by name."""

import itertools
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.imported_dataset import NAME, imported, same_steps, transitions
from support.published_demonstrations import (
    ENDS,
    LENGTHS,
    d4rl_arrays,
    lerobot_columns,
    random,
    write_d4rl,
    write_lerobot,
    write_minari_arrow,
    write_robomimic,
)

from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.data.importing import ImportOptions, read_source
from nfkern.algorithms.data.manifest import Manifest
from nfkern.cli import commands as cli
from nfkern.errors import UserError


def robomimic_steps(written: dict[str, dict[str, np.ndarray]], keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    demos = list(written.values())

    def joined(group: str) -> np.ndarray:
        return np.concatenate([np.concatenate([demo[f"{group}/{key}"] for key in keys], 1) for demo in demos])

    names = ("actions", "rewards")
    steps = {name: np.concatenate([demo[name] for demo in demos]) for name in names}
    steps["masks"] = 1 - np.concatenate([demo["dones"] for demo in demos])
    return steps | {"observations": joined("obs"), "next_observations": joined("next_obs")}


def test_robomimic_joins_the_keys_in_their_order_and_follows_its_masks(tmp_path: Path) -> None:
    written = write_robomimic(tmp_path / "demos")
    manifest = imported(tmp_path / "demos", tmp_path)
    same_steps(transitions(tmp_path), robomimic_steps(written, ("object", "robot0_eef_pos")))
    train = TransitionDataset.load(NAME, tmp_path)
    # demo_10 is no neighbour of demo_1, and the last three in the file's list are for validation.
    assert train.episode_lengths.tolist() == [LENGTHS[k % 4] for k in range(9)]
    notes = "\n".join(manifest.parameters["notes"])
    assert "observations: object (10) + robot0_eef_pos (3)" in notes
    assert "obs/agentview_image (images)" in notes
    assert "splits by mask/train and mask/valid" in notes
    assert "the environment ended where dones is set" in notes


def test_robomimic_takes_the_keys_and_masks_that_are_asked_for(tmp_path: Path) -> None:
    written = write_robomimic(tmp_path / "demos")
    keys = ("robot0_eef_pos", "object")
    imported(tmp_path / "demos", tmp_path, observation_keys=keys)
    same_steps(transitions(tmp_path), robomimic_steps(written, keys))
    manifest = imported(tmp_path / "demos", tmp_path, split_masks=("few", "valid"))
    assert TransitionDataset.load(NAME, tmp_path).episodes == 2
    assert [note for note in manifest.parameters["notes"] if "left out" in note] == [
        "left out: 7 episodes in neither split"
    ]
    for options, says in (
        ({"observation_keys": ("agentview_image",)}, "got images in agentview_image"),
        ({"observation_keys": ("gripper",)}, r"there is no gripper; it holds .*obs/object \(10 float32\)"),
        ({"split_masks": ("few", "train")}, "demo_0 is in both"),
        ({"split_masks": ("few", "many")}, "expected two of few, train, valid, got few,many"),
    ):
        with pytest.raises(UserError, match=says):
            imported(tmp_path / "demos", tmp_path, **options)


def test_robomimic_without_next_observations_leaves_out_what_was_only_cut(tmp_path: Path) -> None:
    written = write_robomimic(tmp_path / "demos", following=False)
    # The environment ended everywhere: what comes then does not matter, and every step is kept.
    imported(tmp_path / "demos", tmp_path)
    mine = transitions(tmp_path)
    assert len(mine["actions"]) == sum(len(demo["actions"]) for demo in written.values())
    assert (mine["masks"] == 0).sum() == len(written)
    manifest = imported(tmp_path / "demos", tmp_path, terminals="cut")
    mine = transitions(tmp_path)
    assert len(mine["actions"]) == sum(len(demo["actions"]) - 1 for demo in written.values())
    assert mine["masks"].all()
    assert any(note.startswith("left out: 12 transitions where") for note in manifest.parameters["notes"])
    # Their rows are all there; imitation can have the steps, too.
    assert manifest.parameters["source_rows"] == sum(
        len(TransitionDataset.load(NAME, tmp_path, split=split).observations) for split in ("train", "val")
    )
    imported(tmp_path / "demos", tmp_path, rewards=False)
    mine = transitions(tmp_path)
    assert len(mine["actions"]) == manifest.parameters["source_rows"]
    assert "rewards" not in mine


def test_an_episode_with_other_arrays_is_refused(tmp_path: Path) -> None:
    """An array that the first episode lacks must not be dropped from the others."""
    for key in ("rewards", "obs/object"):
        write_robomimic(tmp_path / "demos", episodes=4)
        with h5py.File(tmp_path / "demos", "a") as file:
            del file[f"data/demo_0/{key}"], file["mask"]
        with pytest.raises(UserError, match=rf"demo_1: expected the arrays of the first episode.*'{key}'"):
            imported(tmp_path / "demos", tmp_path)


def test_d4rl_with_next_observations_keeps_every_transition_and_where_it_ended(tmp_path: Path) -> None:
    arrays = d4rl_arrays(following=True)
    write_d4rl(tmp_path / "hopper.bin", arrays)
    manifest = imported(tmp_path / "hopper.bin", tmp_path)
    expected = {key: arrays[key] for key in ("observations", "actions", "rewards", "next_observations")}
    same_steps(transitions(tmp_path), expected | {"masks": 1 - arrays["terminals"]})
    notes = "\n".join(manifest.parameters["notes"])
    assert "rows 15 to 16 come after the last end that is marked: kept as an episode" in notes
    assert "infos/qpos (9 float32)" in notes


def test_d4rl_without_next_observations_never_makes_up_a_state_to_learn_from(tmp_path: Path) -> None:
    arrays = d4rl_arrays(following=False)
    write_d4rl(tmp_path / "hopper.hdf5", arrays)
    manifest = imported(tmp_path / "hopper.hdf5", tmp_path)
    mine = transitions(tmp_path)
    # Of the four episodes one has ended, so its last step is kept; of the others, nobody knows where theirs led.
    cut = ENDS[1:] - 1
    kept = ~np.isin(np.arange(ENDS[-1]), cut)
    same_steps(mine, {key: arrays[key][kept] for key in ("observations", "actions", "rewards")})
    assert np.flatnonzero(mine["masks"] == 0).size == 1
    assert any(note.startswith("left out: 3 transitions") for note in manifest.parameters["notes"])


def test_flags_that_disagree_with_next_observations_lose_no_transition(tmp_path: Path) -> None:
    """Rows in any order, flags where none should be: each row is still a transition to its own next observation."""
    arrays = d4rl_arrays(following=True)
    order = np.random.default_rng(1).permutation(ENDS[-1])
    shuffled = {key: each[order] for key, each in arrays.items()}
    shuffled["timeouts"] = np.zeros(ENDS[-1], bool)
    np.savez(tmp_path / "shuffled", **shuffled)
    manifest = imported(tmp_path / "shuffled.npz", tmp_path)
    expected = {key: shuffled[key] for key in ("observations", "actions", "rewards", "next_observations")}
    same_steps(transitions(tmp_path), expected | {"masks": 1 - shuffled["terminals"]})
    assert manifest.parameters["transitions"] == ENDS[-1]
    assert any(
        "times the next observation is not that of the next row" in note for note in manifest.parameters["notes"]
    )


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_is_read_by_episode_index(tmp_path: Path, version: str) -> None:
    columns = lerobot_columns((4, 1, 6, 3))
    write_lerobot(tmp_path / "robot", columns, version=version, splits={"train": "0:4"})
    manifest = imported(tmp_path / "robot", tmp_path)
    mine = transitions(tmp_path)
    same_steps(mine, {"observations": columns["observation.state"], "actions": columns["action"]})
    assert mine["terminals"].sum() == 4, "the episode of one step is there, too"
    assert manifest.parameters["format"] == f"LeRobot {version}"
    assert "observation.image (images)" in "\n".join(manifest.parameters["notes"])
    with pytest.raises(UserError, match=r"there is no observation\.pose; it holds .*observation\.state \(6 "):
        imported(tmp_path / "robot", tmp_path, observation_keys=("observation.pose",))
    imported(tmp_path / "robot", tmp_path, observation_keys=("action", "observation.state"))
    both = np.concatenate([columns["action"], columns["observation.state"]], 1)
    same_steps(transitions(tmp_path), {"observations": both})


def test_lerobot_follows_its_splits_and_says_what_is_missing(tmp_path: Path) -> None:
    columns = lerobot_columns((4, 2, 6, 3))
    write_lerobot(tmp_path / "robot", columns, version="v2.1", splits={"train": "0:3", "val": "3:4"})
    (tmp_path / "robot" / "data" / "chunk-000" / "episode_000001.parquet").unlink()
    manifest = imported(tmp_path / "robot", tmp_path)
    assert TransitionDataset.load(NAME, tmp_path).episode_lengths.tolist() == [4, 6]
    assert TransitionDataset.load(NAME, tmp_path, split="val").episode_lengths.tolist() == [3]
    assert any("promises 15 rows in 4 episodes" in note for note in manifest.parameters["notes"])
    columns["frame_index"] = columns["frame_index"].copy()
    columns["frame_index"][2] = 7
    write_lerobot(tmp_path / "gaps", columns, version="v3.0", splits={})
    with pytest.raises(UserError, match="episode 0: expected frames 0 to 3, once each"):
        imported(tmp_path / "gaps", tmp_path)


def test_minari_arrow_keeps_goals_rewards_and_the_last_observation(tmp_path: Path) -> None:
    written = write_minari_arrow(tmp_path / "minari")
    imported(tmp_path / "minari", tmp_path)
    expected = {
        "observations": np.concatenate([each["observations"][:-1] for each in written]),
        "next_observations": np.concatenate([each["observations"][1:] for each in written]),
        "desired_goal": np.concatenate([each["goal"][:-1] for each in written]),
        "actions": np.concatenate([each["actions"] for each in written]),
        "rewards": np.concatenate([each["rewards"] for each in written]),
        "masks": np.arange(ENDS[-1]) != ENDS[0] - 1,
    }
    same_steps(transitions(tmp_path, ("desired_goal",)), expected)
    imported(tmp_path / "minari", tmp_path, observation_keys=("desired_goal", "observation"))
    both = np.concatenate([expected["desired_goal"], expected["observations"]], 1)
    same_steps(transitions(tmp_path), {"observations": both, "rewards": expected["rewards"]})


@pytest.mark.slow
def test_offline_rl_trains_on_imported_rewards(tmp_path: Path) -> None:
    write_d4rl(tmp_path / "hopper.hdf5", d4rl_arrays(following=True))
    imported(tmp_path / "hopper.hdf5", tmp_path)
    arguments = ["train", "iql", "--env-name", NAME, "--dataset-dir", str(tmp_path), "--run-dir", str(tmp_path / "run")]
    small = ["--steps", "2", "--critic-hidden", "8", "--eval-episodes", "0", "--log-interval", "1", "--quiet"]
    assert cli.main([*arguments, *small]) == 0
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["dataset"]
    assert recorded == Manifest.read(tmp_path / f"{NAME}.json").sha256[f"{NAME}.npz"]


def test_a_group_for_each_episode_is_enough(tmp_path: Path) -> None:
    """ManiSkill's layout: no format of a name, told by what it holds."""
    states, actions = random(5, 3), random(4, 2) * 300
    with h5py.File(tmp_path / "trajectory.h5", "w") as file:
        for number in (2, 10):
            group = {"obs": states + number, "actions": actions, "rewards": np.ones((4, 1)), "terminated": [0, 0, 0, 1]}
            for key, each in (group | {"truncated": [0, 0, 0, number == 2]}).items():
                file[f"traj_{number}/{key}"] = each
        file["notes/text"] = b"nothing"
    manifest = imported(tmp_path / "trajectory.h5", tmp_path)
    expected = {"observations": np.concatenate([states[:-1] + 2, states[:-1] + 10]), "rewards": np.ones(8)}
    same_steps(transitions(tmp_path), expected | {"masks": np.tile([1, 1, 1, 0], 2)})
    notes = "\n".join(manifest.parameters["notes"])
    assert "not read, because they have no actions: notes" in notes


def test_groups_called_episodes_are_not_yet_minaris(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "robot.hdf5", "w") as file:
        for number in range(2):
            file[f"episode_{number}/obs"], file[f"episode_{number}/actions"] = random(5, 3), random(4, 2)
    assert read_source(tmp_path / "robot.hdf5", ImportOptions(), NAME).kind == "HDF5, one group an episode"
    with h5py.File(tmp_path / "robot.hdf5", "a") as file:
        for number, flag in itertools.product(range(2), ("terminations", "truncations")):
            file[f"episode_{number}/{flag}"] = np.arange(4) == 3
    assert read_source(tmp_path / "robot.hdf5", ImportOptions(), NAME).kind == "Minari"


def test_nothing_follows_links_out_of_an_hdf5_file(tmp_path: Path) -> None:
    arrays = d4rl_arrays(following=True)
    write_d4rl(tmp_path / "other.hdf5", arrays)
    layout = h5py.VirtualLayout(arrays["observations"].shape, np.float32)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "observations", arrays["observations"].shape)
    for kind in ("external", "soft", "virtual"):
        with h5py.File(tmp_path / f"{kind}.hdf5", "w") as file:
            for key in ("actions", "timeouts"):
                file[key] = arrays[key]
            if kind == "virtual":
                file.create_virtual_dataset("observations", layout)
            else:
                file["way"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/")
                external = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/observations")
                file["observations"] = external if kind == "external" else h5py.SoftLink("/way/observations")
        with pytest.raises(UserError, match=r"observations \((a link, which is|data of another file, which are) not "):
            imported(tmp_path / f"{kind}.hdf5", tmp_path / "out")


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lerobot(tmp_path / "robot", lerobot_columns((2, 2)), version="v2.1", splits={})
    for module in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"needs the package pyarrow: pip install '?pyarrow"):
        imported(tmp_path / "robot", tmp_path)


def test_the_command_takes_keys_and_says_what_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_robomimic(tmp_path / "demos.hdf5")
    command = ["data", "import", str(tmp_path / "demos.hdf5"), "--name", NAME, "--dataset-dir", str(tmp_path)]
    flags = ["--observation-keys", "robot0_eef_pos,object", "--split-masks", "train,valid", "--terminals", "cut"]
    assert cli.main([*command, *flags]) == 0
    said = capsys.readouterr().out
    assert "12 episodes, 3 of them for validation; 51 rows of the source, 51 transitions." in said
    assert "  observations: robot0_eef_pos (3) + object (10)\n" in said
    assert cli.main(["data", "info", NAME, "--dataset-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "  observations: robot0_eef_pos (3) + object (10)\n" in said
    assert "0 of 39 transitions end the task" in said
