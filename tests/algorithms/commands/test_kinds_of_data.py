"""Every command that reads a dataset reads every kind: generated, downloaded, imported, and made by hand."""

import shutil

import pytest
from support.boxes import register, save, scripted
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401

from nfkern.cli import commands as cli

KINDS = ("generated", "downloaded", "imported", "handmade")
ORIGIN = {"generated": "Data: generated with seed 0", "imported": "Data: imported"}
SMALL = ["--steps", "2", "--batch-size", "8", "--hidden", "8", "--quiet"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def data(kind, point_maze_dir, tmp_path_factory):  # noqa: F811
    """A dataset's name, and the options that go with it."""
    folder = tmp_path_factory.mktemp(kind)
    name, file = POINT_MAZE, folder / "mine.npz"
    if kind == "generated":
        folder = point_maze_dir
    elif kind == "downloaded":
        # OGBench's files have no manifest.
        for split in ("", "-val"):
            shutil.copy(point_maze_dir / f"{POINT_MAZE}{split}.npz", folder)
    else:
        save(scripted("pixels", episodes=20), file)
        name = str(file)
    if kind == "imported":
        name = "own"
        assert cli.main(["data", "import", str(file), "--name", name, "--dataset-dir", str(folder)]) == 0
    return name, ["--dataset-dir", str(folder)]


@pytest.fixture(scope="module")
def run_dir(data, kind, tmp_path_factory):
    """A run on the dataset, evaluated where there is an environment."""
    name, where = data
    folder = tmp_path_factory.mktemp(f"run-{kind}") / "run"
    command = ["train", "gaussian_bc", "--env-name", name, *where, "--run-dir", str(folder), *SMALL]
    assert cli.main([*command, "--eval-episodes", "0"]) == 0
    return folder


@pytest.mark.parametrize("command", ["verify", "info"])
def test_data_commands(command, data, capsys):
    name, where = data
    assert cli.main(["data", command, name, *where]) == 0, capsys.readouterr()
    assert capsys.readouterr().out


@pytest.mark.slow
def test_pictures_of_data(data, tmp_path):
    name, where = data
    assert cli.main(["data", "info", name, *where, "--plot", str(tmp_path / "data.png")]) == 0
    assert (tmp_path / "data.png").stat().st_size > 1000


def test_training_goes_on(data, run_dir):
    name, where = data
    command = ["train", "gaussian_bc", "--env-name", name, *where, "--run-dir", str(run_dir), *SMALL]
    assert cli.main([*command, "--eval-episodes", "0", "--resume"]) == 0


def test_offline_agents_train(data, kind, tmp_path):
    """Offline agents train on the file's rewards, where it has some."""
    name, where = data
    command = ["train", "iql" if kind in ("imported", "handmade") else "gcivl", "--env-name", name, *where]
    small = ["--steps", "2", "--batch-size", "8", "--hidden", "8", "--critic-hidden", "8", "--quiet"]
    assert cli.main([*command, "--run-dir", str(tmp_path / "run"), *small, "--eval-episodes", "0"]) == 0


def test_evaluation(run_dir, kind, capsys):
    env = ["--eval-env", f"support.boxes:{register('pixels')}"] if kind in ("imported", "handmade") else []
    command = ["eval", str(run_dir), *env, "--episodes-per-task", "1", "--max-episode-steps", "5"]
    assert cli.main(command) == 0, capsys.readouterr()


@pytest.mark.slow
def test_report(data, run_dir, kind, tmp_path):
    _, where = data
    assert cli.main(["report", str(run_dir), "--out", str(tmp_path / "page.html"), *where]) == 0
    text = (tmp_path / "page.html").read_text()
    assert ORIGIN.get(kind, "Data: of unknown origin") in text
    # The pictures of curves and of actions, in whatever units these are.
    assert text.count("data:image/png;base64,") == 2
