"""Exported to Minari and imported again, a dataset is the same, up to actions that led nowhere."""

import numpy as np
import pytest

from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.data.importing.convert import import_demonstrations
from nfkern.cli import commands

minari = pytest.importorskip("minari")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


def write(path, *, rewards):
    generator, rows = np.random.default_rng(0), 30
    terminals = np.isin(np.arange(rows), (9, 29))
    arrays = {
        "observations": generator.normal(size=(rows, 3)).astype(np.float32),
        "actions": generator.uniform(-2, 2, (rows, 2)).astype(np.float32),
        "terminals": terminals,
        "qpos": generator.normal(size=(rows, 4)),
    }
    if rewards:
        arrays["rewards"] = generator.normal(size=rows).astype(np.float32)
        arrays["masks"] = (np.arange(rows) != 8).astype(np.float32)
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("rewards", [True, False])
def test_there_and_back(rewards, folder, capsys):
    given = write(folder / "mine.npz", rewards=rewards)
    path = str(folder / "mine.npz")
    assert commands.main(["data", "export", path, "own/mine-v0", "--env", "Reacher-v5"]) == 0
    said = "its rewards" if rewards else "rewards of 0"
    assert f"own/mine-v0: 28 steps in 2 episodes, {said}" in capsys.readouterr().out

    episodes = list(minari.load_dataset("own/mine-v0"))
    for episode, start, end in zip(episodes, (0, 10), (9, 29), strict=True):
        np.testing.assert_array_equal(episode.observations, given["observations"][start : end + 1])
        np.testing.assert_array_equal(episode.actions, given["actions"][start:end])
        np.testing.assert_array_equal(episode.rewards, given["rewards"][start:end] if rewards else 0)
        np.testing.assert_array_equal(episode.infos["qpos"], given["qpos"][start : end + 1])
        last = np.arange(start, end) == end - 1
        ended = last & (rewards and start == 0)
        np.testing.assert_array_equal(episode.terminations, ended)
        np.testing.assert_array_equal(episode.truncations, last & ~ended)

    # One episode is for training then, one for validation.
    import_demonstrations(folder / "minari" / "own" / "mine-v0", "back-v0", folder, validation=0.5)
    splits = [TransitionDataset.load("back-v0", folder, split=split) for split in ("train", "val")]
    for back, rows in zip(sorted(splits, key=len), (slice(10), slice(10, 30)), strict=True):
        np.testing.assert_array_equal(back.observations, given["observations"][rows])
        np.testing.assert_array_equal(back.actions[:-1], given["actions"][rows][:-1])
        if rewards:
            np.testing.assert_array_equal(back.rewards[:-1], given["rewards"][rows][:-1])
            np.testing.assert_array_equal(back.masks[:-1], given["masks"][rows][:-1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["own/mine-v0"], "Minari has a dataset of this name"),
        (["own/mi ne"], "Malformed dataset ID"),
        (["own/other-v0", "--env", "Nowhere-v3"], "Environment `Nowhere` doesn't exist"),
        (["own/other-v0", "--split", "val"], "mine-val.npz"),
    ],
)
def test_what_cannot_be_exported(words, message, folder, capsys):
    write(folder / "mine.npz", rewards=False)
    path = str(folder / "mine.npz")
    assert commands.main(["data", "export", path, "own/mine-v0"]) == 0
    assert commands.main(["data", "export", path, *words]) == 2
    assert message in capsys.readouterr().err
    assert [*minari.list_local_datasets()] == ["own/mine-v0"]
