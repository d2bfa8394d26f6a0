"""One reader: `verify` passes exactly what the loader reads, whoever wrote the file."""

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.data.archive import Column, write_npz
from nfkern.algorithms.data.manifest import Manifest, sha256_of
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.cli import commands as cli
from nfkern.errors import UserError

NAME = "mine-v0"
ROWS = 6
GOOD = {
    "observations": np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3),
    "actions": np.linspace(-1, 1, ROWS * 2, dtype=np.float32).reshape(ROWS, 2),
    "terminals": np.array([0, 0, 1, 0, 0, 1], bool),
}
OUTCOMES = {"rewards": np.arange(ROWS), "masks": np.ones(ROWS)}
NAN = np.where(np.arange(ROWS * 3).reshape(ROWS, 3) == 10, np.nan, GOOD["observations"]).astype(np.float32)


def damaged(key: str) -> np.ndarray:
    """Bytes that the archive does not describe as the loader expects them."""
    return np.array([{"not": key}] * ROWS, dtype=object)


# By name: what differs from GOOD, and whether it can be loaded.
FILES: dict[str, tuple[dict[str, object], bool]] = {
    "as OGBench has it": ({"qpos": np.zeros((ROWS, 15)), "qvel": np.zeros((ROWS, 14))}, True),
    "float64": ({key: GOOD[key].astype(np.float64) for key in ("observations", "actions")}, True),
    "big-endian": ({key: GOOD[key].astype(">f4") for key in ("observations", "actions")}, True),
    "half precision": ({"observations": GOOD["observations"].astype(np.float16)}, True),
    "Fortran order": ({"observations": np.asfortranarray(GOOD["observations"])}, True),
    "terminals as float": ({"terminals": GOOD["terminals"].astype(np.float32)}, True),
    "integer observations": ({"observations": np.ones((ROWS, 2), np.int64)}, True),
    "boolean observations": ({"observations": np.ones((ROWS, 2), bool)}, True),
    "integer rewards": (OUTCOMES, True),
    "boolean masks": (OUTCOMES | {"masks": np.ones(ROWS, bool)}, True),
    "rewards alone, which nothing reads": ({"rewards": np.full(ROWS, np.nan)}, True),
    "a column of text": ({"instruction": np.array(["go"] * ROWS)}, True),
    "a column of objects": ({"infos": damaged("infos")}, True),
    "another length of what is not read": ({"returns": np.zeros(2)}, True),
    "not finite where nothing reads": ({"qvel": np.full((ROWS, 2), np.inf)}, True),
    "NaN in observations": ({"observations": NAN}, False),
    "too large for float32": ({"observations": np.full((ROWS, 2), 1e200)}, False),
    "too large to subtract": ({"observations": np.full((ROWS, 2), 3e38, np.float32)}, False),
    "infinite actions": ({"actions": np.full((ROWS, 2), -np.inf)}, False),
    "NaN in rewards": (OUTCOMES | {"rewards": np.full(ROWS, np.nan)}, False),
    "masks of other numbers": (OUTCOMES | {"masks": np.full(ROWS, 0.5)}, False),
    "rewards of two columns": (OUTCOMES | {"rewards": np.zeros((ROWS, 2))}, False),
    "rewards of another length": (OUTCOMES | {"rewards": np.zeros(ROWS - 1)}, False),
    "no actions": ({"actions": None}, False),
    "no terminals": ({"terminals": None}, False),
    "actions of another length": ({"actions": GOOD["actions"][:-1]}, False),
    "terminals of another length": ({"terminals": np.array([0, 1], bool)}, False),
    "flat actions": ({"actions": np.zeros(ROWS)}, False),
    "images": ({"observations": np.zeros((ROWS, 4, 4, 3), np.uint8)}, False),
    "no features": ({"observations": np.zeros((ROWS, 0))}, False),
    "text": ({"actions": np.array([["left"]] * ROWS)}, False),
    "objects": ({"observations": damaged("observations")}, False),
    "complex numbers": ({"actions": np.zeros((ROWS, 2), complex)}, False),
    "no last terminal": ({"terminals": np.array([0, 0, 1, 0, 0, 0], bool)}, False),
    "every row a terminal": ({"terminals": np.ones(ROWS, bool)}, False),
    "an episode of one row": ({"terminals": np.array([1, 0, 0, 0, 0, 1], bool)}, False),
    "other terminals": ({"terminals": np.array([0, 0, 2, 0, 0, 1])}, False),
    "terminals of two dimensions": ({"terminals": GOOD["terminals"][:, None]}, False),
    "NaN in terminals": ({"terminals": np.array([0, 0, np.nan, 0, 0, 1])}, False),
    "no rows": ({key: each[:0] for key, each in GOOD.items()}, False),
}


def save(path: Path, arrays: dict[str, np.ndarray], how: str) -> None:
    if how == "mapped":
        write_npz(path, [Column(key, each.shape, each.dtype, [each]) for key, each in arrays.items()])
    else:
        {"plain": np.savez, "compressed": np.savez_compressed}[how](path, **arrays)


def changed(changes: dict[str, object]) -> dict[str, np.ndarray]:
    return {key: each for key, each in (GOOD | changes).items() if each is not None}


def loads(**arguments: object) -> bool:
    return loads_of(NAME, **arguments)


def loads_of(name: str, **arguments: object) -> bool:
    try:
        TransitionDataset.load(name, **arguments)
    except UserError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "compressed", "mapped"])
@pytest.mark.parametrize("kind", FILES)
def test_verify_passes_exactly_what_loads(kind: str, how: str, tmp_path: Path) -> None:
    changes, good = FILES[kind]
    arrays = changed(changes)
    if how == "mapped" and any(each.dtype.hasobject for each in arrays.values()):
        how = "plain"
    for split in ("", "-val"):
        save(tmp_path / f"{NAME}{split}.npz", arrays, how)
    passed = cli.main(["data", "verify", NAME, "--dataset-dir", str(tmp_path)]) == 0
    assert passed == loads(dataset_dir=tmp_path) == good
    assert passed == (cli.main(["data", "info", NAME, "--dataset-dir", str(tmp_path)]) == 0)
    assert passed == (cli.main(["data", "verify", str(tmp_path / f"{NAME}.npz")]) == 0)
    if good:
        data = TransitionDataset.load(NAME, tmp_path)
        assert data.observations.dtype == data.actions.dtype == np.float32
        np.testing.assert_array_equal(data.observations, arrays["observations"].astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("NaN in observations", "observations holds 1 values that are not finite: nan in row 3"),
        ("infinite actions", "actions holds 12 values that are not finite: -inf in row 0"),
        ("too large to subtract", r"12 values that are beyond 1.7e\+38, .*: 3e\+38 in row 0, feature 0"),
        ("too large for float32", "not finite: inf in row 0"),
        ("an episode of one row", "1 of 2 episodes have a single row.* at row 0"),
        ("no last terminal", "does not end an episode"),
        ("objects", "observations cannot be read: it holds Python objects"),
        ("masks of other numbers", "masks must hold 0"),
    ],
)
def test_what_is_wrong_is_named(kind: str, says: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", **changed(FILES[kind][0]))
    with pytest.raises(UserError, match=says):
        TransitionDataset.load(tmp_path / "file.npz")


@pytest.mark.slow
def test_columns_that_an_algorithm_does_not_read_cannot_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("", "-val"):
        np.savez(tmp_path / f"{NAME}{split}.npz", **GOOD, rewards=np.full(ROWS, np.nan), masks=["?"] * ROWS)
    arguments = ["--env-name", NAME, "--dataset-dir", str(tmp_path), "--steps", "1", "--eval-episodes", "0", "--quiet"]
    assert cli.main(["train", "gaussian_bc", *arguments, "--run-dir", str(tmp_path / "bc")]) == 0
    assert cli.main(["train", "iql", *arguments, "--run-dir", str(tmp_path / "iql")]) == 2
    assert not loads(dataset_dir=tmp_path)
    # What refuses the file, and what does not, is said where it is checked.
    assert cli.main(["data", "verify", str(tmp_path / f"{NAME}.npz")]) == 1
    assert "what reads no rewards and masks trains on it" in capsys.readouterr().out


def test_offline_rl_names_the_outcome_that_is_missing(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", **GOOD, rewards=np.zeros(ROWS))
    assert TransitionDataset.load(tmp_path / "file.npz").rewards is None
    with pytest.raises(UserError, match="rewards and masks belong together; it holds rewards alone"):
        TransitionDataset.load(tmp_path / "file.npz", rewards=True)


@pytest.mark.parametrize("how", ["plain", "compressed", "mapped"])
def test_damaged_bytes_are_found_without_a_manifest(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{NAME}.npz"
    noise = np.random.default_rng(0).normal(size=(ROWS, 50)).astype(np.float32)
    save(path, GOOD | {"observations": noise, "qpos": noise}, how)
    TransitionDataset.load(path)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("observations.npy")
        middle = info.header_offset + info.compress_size * 3 // 4
        elsewhere = archive.getinfo("qpos.npy").header_offset + 60
    content = bytearray(path.read_bytes())
    content[elsewhere] ^= 1
    path.write_bytes(content)
    # Of what is not read, damage is only told.
    TransitionDataset.load(path)
    assert cli.main(["data", "verify", str(path)]) == 0
    assert "qpos cannot be read: its bytes are damaged" in capsys.readouterr().out
    content[middle] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="observations cannot be read: its bytes are damaged"):
        TransitionDataset.load(path)
    assert cli.main(["data", "verify", str(path)]) == 1


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + bytes(18), None])
def test_a_file_of_another_kind_is_no_traceback(content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        # One array, without an archive around it.
        buffer = io.BytesIO()
        np.save(buffer, GOOD["observations"])
        content = buffer.getvalue()
    path = tmp_path / "file.npz"
    path.write_bytes(content)
    # A check that fails, and something to be mended.
    assert cli.main(["data", "verify", str(path)]) == 1
    assert cli.main(["data", "info", str(path)]) == 2


def test_a_file_without_its_validation_file_says_how_to_get_one(tmp_path: Path) -> None:
    np.savez(tmp_path / f"{NAME}.npz", **GOOD)
    with pytest.raises(UserError, match=r"there is no dataset file .*-val\.npz: `.*`") as caught:
        TransitionDataset.load(NAME, tmp_path, split="val")
    command = str(caught.value).split("`")[1].replace("NEW-NAME", "new-v0").split()
    assert cli.main([*command[1:], "--dataset-dir", str(tmp_path)]) == 0
    # As many transitions as are read from the file itself.
    parts = [TransitionDataset.load("new-v0", tmp_path, split=split) for split in ("train", "val")]
    assert sum(map(len, parts)) == len(TransitionDataset.load(NAME, tmp_path))
    assert cli.main(["data", "info", str(tmp_path / f"{NAME}.npz")]) == 0


def test_what_is_no_manifest_or_no_name_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_with_manifest(tmp_path)
    for content, says in (
        (
            '{"format": 1, "name": "a", "origin": "imported", "sha256": ["?"]}',
            "expected sha256 to be a dict, got ['?']",
        ),
        ('{"name": "a"}', "expected format 1, got None"),
        ('{"format": 1, "name": "a"}', "it lacks origin, sha256"),
        ('{"format": 1, "colour": "a"}', "got colour as well"),
        ('["a"]', "expected a JSON object, got list"),
    ):
        path.with_suffix(".json").write_text(content)
        assert cli.main(["data", "verify", NAME, "--dataset-dir", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert "is no manifest of a dataset (" in said
        assert says in said
    assert cli.main(["data", "import", str(path), "--name", "new.npz", "--dataset-dir", str(tmp_path)]) == 2
    assert "expected a dataset name such as" in capsys.readouterr().err


def test_no_dataset_takes_the_name_of_a_validation_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_with_manifest(tmp_path)
    command = ["data", "import", str(path), "--name", f"{NAME}-val", "--dataset-dir", str(tmp_path), "--overwrite"]
    assert cli.main(command) == 2
    assert f"{NAME}-val.npz is the validation file of {NAME}" in capsys.readouterr().err
    # A manifest of that name, from elsewhere, does not vouch for the file.
    other = tmp_path / f"{NAME}-val.npz"
    save(other, changed({"actions": GOOD["actions"] / 2}), "mapped")
    Manifest(f"{NAME}-val", "imported", {other.name: sha256_of(other)}).write(other.with_suffix(".json"))
    assert not loads(dataset_dir=tmp_path, split="val")


@pytest.mark.parametrize("by_path", [False, True])
def test_splits_of_other_features_are_refused_by_verify_and_by_training(
    by_path: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / f"{NAME}.npz", **GOOD)
    np.savez(tmp_path / f"{NAME}-val.npz", **changed({"observations": np.zeros((ROWS, 4), np.float32)}))
    name, where = str(tmp_path / f"{NAME}.npz") if by_path else NAME, ["--dataset-dir", str(tmp_path)]
    widths = f"{NAME} has observations of 3 and actions of 2 features, {NAME}-val has observations of 4 and"
    assert cli.main(["data", "verify", name, *where]) == 1
    assert widths in capsys.readouterr().out
    arguments = ["--env-name", name, *where, "--run-dir", str(tmp_path / "run"), "--eval-episodes", "0"]
    assert cli.main(["train", "gaussian_bc", *arguments, "--steps", "1"]) == 2
    assert widths in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def write_with_manifest(folder: Path) -> Path:
    for split in ("", "-val"):
        save(folder / f"{NAME}{split}.npz", GOOD, "mapped")
    sums = {path.name: sha256_of(path) for path in folder.glob("*.npz")}
    Manifest(NAME, "imported", sums, note="made by hand").write(folder / f"{NAME}.json")
    return folder / f"{NAME}.npz"


def test_a_file_that_is_not_its_manifests_is_refused_everywhere(tmp_path: Path) -> None:
    path = write_with_manifest(tmp_path)
    assert loads(dataset_dir=tmp_path)
    save(path, changed({"actions": GOOD["actions"] / 2}), "mapped")
    where = ["--dataset-dir", str(tmp_path)]
    with pytest.raises(
        UserError, match=f"is not the file of its manifest: expected .*, got sha256|got {sha256_of(path)}"
    ):
        TransitionDataset.load(path)
    assert cli.main(["data", "verify", NAME, *where]) == 1
    assert cli.main(["data", "info", NAME, *where]) == 2
    train = ["train", "gaussian_bc", "--env-name", NAME, *where, "--run-dir", str(tmp_path / "run"), "--steps", "1"]
    assert cli.main([*train, "--eval-episodes", "0", "--quiet"]) == 2
    assert not (tmp_path / "run").exists()
    # A manifest that says nothing about a file says nothing against it.
    Manifest(NAME, "imported", {}, note="made by hand").write(tmp_path / f"{NAME}.json")
    assert loads(dataset_dir=tmp_path)
    assert cli.main(["data", "verify", NAME, *where]) == 0


def test_a_run_records_the_digest_of_what_it_reads(tmp_path: Path) -> None:
    settings = RunSettings(env_name=NAME, dataset_dir=tmp_path)
    assert settings.dataset_digest() is None
    path = write_with_manifest(tmp_path)
    (tmp_path / f"{NAME}.json").unlink()
    for arrays in (GOOD, changed({"actions": GOOD["actions"] / 2})):
        save(path, arrays, "mapped")
        assert settings.dataset_digest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_unchanged_file_is_hashed_and_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_with_manifest(tmp_path)
    calls: list[str] = []
    digest, finite = hashlib.file_digest, np.isfinite
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: calls.append("sha256") or digest(*given))
    monkeypatch.setattr(np, "isfinite", lambda each: calls.append("finite") or finite(each))
    # Old enough that no write of the same tick can hide behind its time.
    for times, expected in ((100, {"sha256": 1, "finite": 2}), (100, {}), (200, {"sha256": 1, "finite": 2})):
        os.utime(path, (times, times))
        calls.clear()
        TransitionDataset.load(path)
        assert {call: calls.count(call) for call in calls} == expected
