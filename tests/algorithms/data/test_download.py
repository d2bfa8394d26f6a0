"""Downloads from a server on this machine."""

import socket

import numpy as np
import pytest
from support.dataset_server import serve

from nfkern.algorithms.commands.data import Download
from nfkern.algorithms.data.download import BLOCK, DATASET_URL, Transfer, download
from nfkern.algorithms.data.manifest import DatasetFiles, Manifest, sha256_of
from nfkern.errors import UserError

NAME = "antmaze-medium-navigate-v0"


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for suffix, rows in (("", 3000), ("-val", 300)):
        terminals = np.arange(rows) % 100 == 99
        columns = {"observations": (rows, 29), "actions": (rows, 8), "qpos": (rows, 15)}
        arrays = {key: generator.normal(size=shape).astype(np.float32) for key, shape in columns.items()}
        np.savez_compressed(folder / f"{NAME}{suffix}.npz", terminals=terminals, **arrays)
    with serve(folder) as running:
        yield running


@pytest.fixture
def fetch(server, tmp_path):
    def call(**arguments):
        transfer = Transfer(server.address, timeout=5, retries=3, pause=0.001, progress=False)
        return download(NAME, tmp_path / "data", transfer, **arguments)

    return call


def same_files(server, directory):
    return all(
        (directory / f"{NAME}{suffix}.npz").read_bytes() == (server.folder / f"{NAME}{suffix}.npz").read_bytes()
        for suffix in ("", "-val")
    )


def test_address_is_ogbench_s():
    ogbench = pytest.importorskip("ogbench.utils")
    assert ogbench.DATASET_URL == DATASET_URL


def test_both_files_arrive_with_a_manifest(server, fetch, tmp_path):
    manifest = fetch()
    assert same_files(server, tmp_path / "data")
    assert manifest == Manifest.read(tmp_path / "data" / f"{NAME}.json")
    assert manifest.origin == "downloaded"
    assert manifest.source == server.address
    assert manifest.sha256[f"{NAME}.npz"] == sha256_of(server.folder / f"{NAME}.npz")
    assert not list((tmp_path / "data").glob("*.part"))
    before = len(server.requests)
    assert fetch() == manifest
    assert len(server.requests) == before


def test_broken_transfers_continue_where_they_stopped(server, fetch, tmp_path):
    # Whole blocks are kept, the rest of a broken one is dropped.
    server.cut_after = [BLOCK + 1000, 2 * BLOCK, 0, 0]
    fetch()
    assert same_files(server, tmp_path / "data")
    ranges = [wanted for path, wanted in server.requests if path == f"/{NAME}.npz"]
    assert ranges == [None, *(f"bytes={blocks * BLOCK}-" for blocks in (1, 3, 3, 3))]


def test_a_later_command_continues(server, fetch, tmp_path):
    server.cut_after = [BLOCK, 0, 0, 0]
    with pytest.raises(UserError, match="the same command continues"):
        fetch()
    assert (tmp_path / "data" / f"{NAME}.npz.part").stat().st_size == BLOCK
    server.requests.clear()
    fetch()
    assert server.requests[0][1] == f"bytes={BLOCK}-"
    assert same_files(server, tmp_path / "data")


def test_a_server_without_ranges_starts_again(server, fetch, tmp_path):
    server.ranges = False
    server.cut_after = [1000]
    fetch()
    assert same_files(server, tmp_path / "data")


def test_a_complete_part_is_recognised_and_one_too_long_is_dropped(server, fetch, tmp_path):
    content = (server.folder / f"{NAME}.npz").read_bytes()
    (tmp_path / "data").mkdir()
    for leftover in (content, content + b"more"):
        (tmp_path / "data" / f"{NAME}.npz.part").write_bytes(leftover)
        fetch(overwrite=True)
        assert same_files(server, tmp_path / "data")


def test_a_part_of_another_file_is_found_out(server, fetch, tmp_path):
    (tmp_path / "data").mkdir()
    part = tmp_path / "data" / f"{NAME}.npz.part"
    part.write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="is damaged.*deleted"):
        fetch()
    assert not part.exists()
    assert not (tmp_path / "data" / f"{NAME}.npz").exists()
    fetch()
    assert same_files(server, tmp_path / "data")


def test_busy_server_is_asked_again_and_missing_file_is_not(server, fetch, tmp_path):
    server.statuses = [503, 429]
    fetch()
    assert same_files(server, tmp_path / "data")
    (server.folder / f"{NAME}.npz").unlink()
    server.requests.clear()
    with pytest.raises(UserError, match="404"):
        fetch(overwrite=True)
    assert len(server.requests) == 1


def test_wrong_checksum_is_refused(server, fetch, tmp_path):
    right = sha256_of(server.folder / f"{NAME}.npz")
    with pytest.raises(UserError, match=f"has sha256 {right}, expected {'0' * 64}"):
        fetch(sha256={"train": "0" * 64})
    assert not list((tmp_path / "data").glob("*.npz*"))
    fetch(sha256={"train": right.upper()})


def test_known_checksum_guards_a_file_fetched_again(server, fetch, tmp_path):
    fetch()
    (tmp_path / "data" / f"{NAME}.npz").unlink()
    np.savez(server.folder / f"{NAME}.npz", observations=np.zeros((2, 2)), actions=np.zeros((2, 1)), terminals=[0, 1])
    with pytest.raises(UserError, match="sha256"):
        fetch()
    fetch(overwrite=True)


def test_a_page_instead_of_a_file_is_refused(server, fetch, tmp_path):
    (server.folder / f"{NAME}.npz").write_text("<html>please log in</html>")
    with pytest.raises(UserError, match="not a readable npz file"):
        fetch()
    assert not (tmp_path / "data" / f"{NAME}.npz").exists()


def test_generated_data_are_not_replaced_unasked(fetch, tmp_path):
    files = DatasetFiles(tmp_path / "data", NAME)
    files.directory.mkdir()
    Manifest(NAME, "generated", {}).write(files.manifest)
    with pytest.raises(UserError, match="--overwrite"):
        fetch()
    fetch(overwrite=True)
    assert Manifest.read(files.manifest).origin == "downloaded"


def test_without_network_the_error_names_local_generation(tmp_path, monkeypatch):
    # A port that was free a moment ago: nobody listens.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name, advice in (
        ("cube-single-play-v0", "nfkern data generate cube-single-play-v0"),
        (NAME, "no local recipe"),
    ):
        with pytest.raises(UserError, match=f"cannot download .*refused.*{advice}"):
            Download(name, tmp_path, mirror=address, retries=2).run()


def test_command_prints_the_checksums(server, tmp_path, capsys):
    assert Download(NAME, tmp_path / "data", mirror=server.address).run() == 0
    assert sha256_of(server.folder / f"{NAME}-val.npz") in capsys.readouterr().out


@pytest.mark.parametrize(
    "transfer", [Transfer(mirror="nonsense"), Transfer(mirror="ftp://x"), Transfer(timeout=0), Transfer(retries=0)]
)
def test_settings_that_cannot_work_are_named(transfer, tmp_path):
    with pytest.raises(UserError, match=r"--(mirror|timeout, --retries): expected"):
        download("pointmaze-medium-navigate-v0", tmp_path, transfer)
    assert not any(tmp_path.iterdir())
