"""Demonstrations as others publish them: each format, written small by the test, comes out row by row."""

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.published_demonstrations import ENDS, LENGTHS, random, with_last_row, write_zarr, zipped

from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.data.checks import verify
from nfkern.algorithms.data.importing import ImportOptions, read_source
from nfkern.algorithms.data.importing.convert import import_demonstrations
from nfkern.algorithms.data.manifest import Manifest
from nfkern.algorithms.envs.imitation.push_t import keypoint_observations
from nfkern.cli import commands as cli
from nfkern.errors import UserError


def write_relay(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir()
    observations, actions = random(max(LENGTHS), len(LENGTHS), 60), random(max(LENGTHS), len(LENGTHS), 9)
    mask = np.arange(max(LENGTHS))[:, None] < np.array(LENGTHS)
    for name, array in {"observations_seq": observations, "actions_seq": actions, "existence_mask": mask}.items():
        np.save(folder / f"{name}.npy", array)
    return observations, actions


def write_minari(folder: Path, *, size: int = 59, episodes: int = len(LENGTHS)) -> list[tuple[np.ndarray, np.ndarray]]:
    """Episodes as Minari writes them: one observation more than actions, goals beside states, one in a dictionary."""
    (folder / "data").mkdir(parents=True)
    written = []
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for number in range(episodes):
            length = LENGTHS[number % len(LENGTHS)]
            states, actions = random(length + 1, size) + number, random(length, 9)
            group = file.create_group(f"episode_{number}")
            group["observations/observation"], group["observations/desired_goal/kettle"] = states, states[:, :2]
            group["observations/desired_goal/burner"] = states[:, 2:3]
            group["actions"] = actions
            written.append((states, actions))
    return written


def rows(name: str, directory: Path) -> list[np.ndarray]:
    """Every episode's observations and actions side by side, of both splits."""
    found = []
    for split in ("train", "val"):
        data = TransitionDataset.load(name, directory, split=split)
        both = np.concatenate([data.observations, data.actions], 1)
        found += [both[a : b + 1] for a, b in zip(data.episode_starts, data.episode_ends, strict=True)]
    return sorted(found, key=len)


def test_zarr_of_pusht(tmp_path: Path) -> None:
    states, actions = write_zarr(tmp_path / "replay.zarr")
    manifest = import_demonstrations(tmp_path / "replay.zarr", "pusht-human-v0", tmp_path, validation=0.3)
    whole = np.concatenate([keypoint_observations(states.astype(np.float64)), actions], 1)
    # As many actions as observations: the last one of each episode is kept, and what it led to is not known.
    expected = sorted((with_last_row(each) for each in np.split(whole, ENDS[:-1])), key=len)
    for mine, theirs in zip(rows("pusht-human-v0", tmp_path), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert TransitionDataset.load("pusht-human-v0", tmp_path, split="val").episodes == 1
    assert all(finding.problem is None for finding in verify("pusht-human-v0", tmp_path))
    assert manifest == Manifest.read(tmp_path / "pusht-human-v0.json")
    assert manifest.origin == "imported"
    assert manifest.parameters["source_rows"] == manifest.parameters["transitions"] == ENDS[-1]


def test_zarr_zipped_as_published_is_the_same_as_its_folder(tmp_path: Path) -> None:
    write_zarr(tmp_path / "replay.zarr")
    archive = zipped(tmp_path / "replay.zarr", below="pusht")
    sums = [
        import_demonstrations(source, "pusht-human-v0", tmp_path, overwrite=True).sha256
        for source in (tmp_path / "replay.zarr", archive)
    ]
    assert sums[0] == sums[1]


def test_a_zip_file_whose_names_begin_with_a_dot_is_no_damaged_one(tmp_path: Path) -> None:
    write_zarr(tmp_path / "replay.zarr")
    archive = tmp_path / "replay.zip"
    with zipfile.ZipFile(zipped(tmp_path / "replay.zarr", below="")) as whole, zipfile.ZipFile(archive, "w") as dotted:
        for name in whole.namelist():
            dotted.writestr(f"./{name.lstrip('/')}", whole.read(name))
    with pytest.raises(UserError, match=r"its names begin with \./.*: unzip it"):
        import_demonstrations(archive, "pusht-human-v0", tmp_path)


def test_zarr_with_images_in_an_unknown_codec_is_read_without_them(tmp_path: Path) -> None:
    write_zarr(tmp_path / "replay.zarr", state=4)
    camera = tmp_path / "replay.zarr" / "data" / "camera"
    shutil.copytree(tmp_path / "replay.zarr" / "data" / "state", camera)
    described = json.loads((camera / ".zarray").read_text())
    (camera / ".zarray").write_text(json.dumps(described | {"compressor": {"id": "imagecodecs_jpegxl"}}))
    for source in (tmp_path / "replay.zarr", zipped(tmp_path / "replay.zarr", below="umi")):
        manifest = import_demonstrations(source, "other-v0", tmp_path, overwrite=True)
        assert manifest.parameters["transitions"] == ENDS[-1]
        assert "not read: camera (in a codec or type that zarr does not read here)" in manifest.parameters["notes"]


def test_zarr_of_another_task_keeps_its_state(tmp_path: Path) -> None:
    states, _ = write_zarr(tmp_path / "other.zarr", state=4)
    import_demonstrations(tmp_path / "other.zarr", "other-v0", tmp_path)
    expected = sorted(np.split(states, ENDS[:-1]), key=len)
    for mine, theirs in zip(rows("other-v0", tmp_path), expected, strict=True):
        np.testing.assert_array_equal(mine[:-1, :4], theirs)


def test_relay_kitchen_arrays(tmp_path: Path) -> None:
    observations, actions = write_relay(tmp_path / "relay")
    import_demonstrations(tmp_path / "relay", "kitchen-human-v0", tmp_path)
    for mine, episode in zip(rows("kitchen-human-v0", tmp_path), np.argsort(LENGTHS), strict=True):
        length = LENGTHS[episode]
        np.testing.assert_array_equal(mine[:-1, :30], observations[:length, episode, :30])
        np.testing.assert_array_equal(mine[:-1, 30:], actions[:length, episode])


def test_relay_arrays_with_episodes_first_are_told_by_their_mask(tmp_path: Path) -> None:
    observations, actions = write_relay(tmp_path / "relay")
    for name in ("observations_seq", "actions_seq", "existence_mask"):
        np.save(tmp_path / "relay" / f"{name}.npy", np.load(tmp_path / "relay" / f"{name}.npy").swapaxes(0, 1))
    import_demonstrations(tmp_path / "relay", "mine-v0", tmp_path)
    for mine, episode in zip(rows("mine-v0", tmp_path), np.argsort(LENGTHS), strict=True):
        both = np.concatenate([observations, actions], -1)
        np.testing.assert_array_equal(mine[:-1], both[: LENGTHS[episode], episode])
    mask = np.load(tmp_path / "relay" / "existence_mask.npy")
    mask[0, 1] = False
    np.save(tmp_path / "relay" / "existence_mask.npy", mask)
    with pytest.raises(UserError, match="got gaps"):
        import_demonstrations(tmp_path / "relay", "gaps-v0", tmp_path)


def test_minari_of_the_kitchen(tmp_path: Path) -> None:
    # Ten and more episodes: by name, the eleventh would come before the third.
    written = write_minari(tmp_path / "minari", episodes=12)
    found = read_source(tmp_path / "minari", ImportOptions(), "kitchen-human-v0").episodes
    for mine, (states, actions) in zip(found, written, strict=True):
        np.testing.assert_array_equal(mine.observations, np.concatenate([states[:, :9], states[:, 18:39]], 1))
        np.testing.assert_array_equal(mine.actions, actions)
        # Goals are kept beside the state, those of a dictionary in the order of their names.
        np.testing.assert_array_equal(mine.extras["desired_goal"], states[:, [2, 0, 1]])
    manifest = import_demonstrations(tmp_path / "minari", "kitchen-human-v0", tmp_path)
    first = rows("kitchen-human-v0", tmp_path)[0]
    assert len(first) == min(LENGTHS) + 1, "the last observation is a row of its own"
    np.testing.assert_array_equal(first[-1, 30:], first[-2, 30:])
    notes = "\n".join(manifest.parameters["notes"])
    assert "desired_goal = desired_goal/burner (1) + desired_goal/kettle (2)" in notes
    assert (
        TransitionDataset.load("kitchen-human-v0", tmp_path, extras=["desired_goal"]).extras["desired_goal"].shape[1]
        == 3
    )


@pytest.mark.parametrize("mark", ["terminals", "timeouts", "episode_ends"])
def test_npz(tmp_path: Path, mark: str) -> None:
    observations, actions = random(ENDS[-1], 3), random(ENDS[-1], 2)
    flags = np.isin(np.arange(ENDS[-1]), ENDS - 1)
    marks = {mark: ENDS if mark == "episode_ends" else flags}
    np.savez(tmp_path / "mine.npz", observations=observations, actions=actions, **marks)
    import_demonstrations(tmp_path / "mine.npz", "mine-v0", tmp_path)
    whole = np.concatenate([observations, actions], 1)
    expected = sorted((with_last_row(each) for each in np.split(whole, ENDS[:-1])), key=len)
    for mine, theirs in zip(rows("mine-v0", tmp_path), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_validation_episodes_follow_from_the_seed(tmp_path: Path) -> None:
    write_minari(tmp_path / "minari", episodes=20)
    sums = []
    for seed in (0, 0, 1):
        manifest = import_demonstrations(
            tmp_path / "minari", "kitchen-human-v0", tmp_path, seed=seed, validation=0.25, overwrite=True
        )
        sums.append(manifest.sha256)
        assert TransitionDataset.load("kitchen-human-v0", tmp_path, split="val").episodes == 5
    assert sums[0] == sums[1] != sums[2]


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def message(source: Path, name: str = "pusht-human-v0") -> str:
        with pytest.raises(UserError) as caught:
            import_demonstrations(source, name, tmp_path / "out")
        assert not list(tmp_path.glob("out/*"))
        return str(caught.value)

    assert "there is no file" in message(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "expected an npz file, an HDF5 file" in message(tmp_path / "empty")
    np.savez(tmp_path / "unmarked.npz", observations=random(4, 3), actions=random(4, 2))
    assert "expected episode_ends" in message(tmp_path / "unmarked.npz")
    np.savez(tmp_path / "nameless.npz", actions=random(4, 2), terminals=[0, 1, 0, 1])
    assert "expected observations under one of the names" in message(tmp_path / "nameless.npz")
    np.savez(tmp_path / "uneven.npz", observations=random(5, 3), actions=random(4, 2), terminals=[0, 1, 0, 1])
    assert "as many observations as actions" in message(tmp_path / "uneven.npz")
    (tmp_path / "bad.hdf5").write_bytes(b"not a file of that kind")
    assert "got a file that begins with b'not a fi'" in message(tmp_path / "bad.hdf5")
    (tmp_path / "half.npz").write_bytes((tmp_path / "uneven.npz").read_bytes()[:-40])
    assert message(tmp_path / "half.npz").endswith("got a zip file that is cut off")
    with h5py.File(tmp_path / "good.h5", "w") as file:
        file["observations"], file["actions"], file["timeouts"] = random(400, 3), random(400, 2), np.ones(400)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "good.h5").read_bytes()[:3000])
    assert message(tmp_path / "cut.h5").endswith("written in a way that the format's own library does not read")
    write_zarr(tmp_path / "replay.zarr")
    command = ["data", "import", str(tmp_path / "replay.zarr"), "--name", "pusht-human-v0"]
    command += ["--dataset-dir", str(tmp_path / "data")]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "4 episodes, 1 of them for validation; 17 rows of the source, 17 transitions" in said
    assert "observations: state (5)" in said
    assert "4 episodes with the last observation once more" in said
    assert cli.main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--validation", "2"]) == 2
    assert "expected a share between 0 and 1, got 2.0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_on_imported_demonstrations_is_trained_and_scored(tmp_path: Path) -> None:
    write_zarr(tmp_path / "replay.zarr")
    import_demonstrations(tmp_path / "replay.zarr", "pusht-human-v0", tmp_path)
    arguments = [
        "train",
        "nf_bc",
        "--preset",
        "pusht",
        "--dataset-dir",
        str(tmp_path),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    small = ["--steps", "2", "--blocks", "2", "--hidden", "16", "16", "--encoder-width", "16", "--eval-episodes", "2"]
    assert cli.main([*arguments, *small, "--quiet"]) == 0
    header, values = (tmp_path / "run" / "eval.csv").read_text().splitlines()
    result = dict(zip(header.split(","), map(float, values.split(",")), strict=True))
    assert 0 <= result["evaluation/score"] <= 1
