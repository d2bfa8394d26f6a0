"""`nfkern data verify | info | generate` on small data, and what their checks find."""

import re

import numpy as np
import pytest
import tyro
from support.dataset_fixture import POINT_MAZE, point_maze_dir  # noqa: F401

from nfkern.algorithms.commands.data import Generate, Info, Verify
from nfkern.algorithms.data.checks import structure_problems
from nfkern.algorithms.data.generation.generate import GenerationPlan
from nfkern.algorithms.data.manifest import Manifest
from nfkern.algorithms.data.recipes import RECIPES
from nfkern.algorithms.data.summary import bars, coverage, visited_cells
from nfkern.algorithms.data.transitions import TransitionDataset
from nfkern.errors import UserError

GOOD = {"observations": np.zeros((4, 2)), "actions": np.zeros((4, 1)), "terminals": np.array([0, 1, 0, 1], bool)}


def test_verify_passes_on_fresh_data_and_fails_on_changed_ones(point_maze_dir, tmp_path, capsys):  # noqa: F811
    assert Verify(POINT_MAZE, point_maze_dir).run() == 0
    for path in point_maze_dir.glob(f"{POINT_MAZE}*"):
        content = bytearray(path.read_bytes())
        if path.name == f"{POINT_MAZE}.npz":
            content[len(content) // 2] ^= 1
        (tmp_path / path.name).write_bytes(content)
    capsys.readouterr()
    assert Verify(POINT_MAZE, tmp_path).run() == 1
    output = capsys.readouterr().out
    assert f"FAILED  {POINT_MAZE}.npz: sha256" in output
    assert f"ok      {POINT_MAZE}-val.npz: sha256" in output
    # The archive's own checksum finds the flipped bit as well.
    assert f"FAILED  {POINT_MAZE}.npz: structure" in output


def test_verify_names_missing_files(tmp_path, capsys):
    assert Verify("nothing-v0", tmp_path).run() == 1
    assert capsys.readouterr().out.count("the file is missing") == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        (
            {"observations": np.array([[0.0], [np.nan], [np.inf], [0]])},
            "observations holds 2 values that are not finite",
        ),
        ({"terminals": np.array([0, 1, 0, 0])}, "cut off"),
        ({"terminals": np.array([0, 2, 0, 1])}, "0 and 1 only"),
        ({"terminals": np.array([0, 1, 1, 1])}, "2 of 3 episodes have a single row"),
        ({"actions": np.zeros((3, 1))}, "differ in length"),
        ({key: array[:0] for key, array in GOOD.items()}, "no rows"),
        ({"actions": np.array(["a"] * 4)}, "actions must hold numbers"),
        ({"qpos": np.array([{}] * 4, dtype=object)}, None),
    ],
)
def test_structure_problems_are_named(changes, says, tmp_path):
    np.savez(tmp_path / "file.npz", **{**GOOD, **changes})
    problems = structure_problems(tmp_path / "file.npz")
    assert (problems == []) if says is None else (len(problems) == 1 and says in problems[0])


def test_missing_columns_and_foreign_files_are_named(tmp_path):
    np.savez(tmp_path / "file.npz", obs=np.zeros((2, 1)), actions=np.zeros((2, 1)))
    (problem,) = structure_problems(tmp_path / "file.npz")
    assert problem.startswith("lacks observations, terminals; it holds obs, actions: ")
    assert f"`nfkern data import {tmp_path / 'file.npz'} --name NAME` takes other names" in problem
    with pytest.raises(UserError, match=r"no usable dataset: lacks .* `nfkern data import .*episode's end$"):
        TransitionDataset.load(tmp_path / "file.npz")
    (tmp_path / "file.npz").write_text("text")
    assert "not a readable npz file" in structure_problems(tmp_path / "file.npz")[0]


@pytest.mark.parametrize("folder", [False, True])
def test_a_file_of_another_format_is_to_be_imported(folder, tmp_path):
    file = tmp_path / "my robot.zarr"
    file.mkdir() if folder else file.touch()
    message = re.escape(f"{file} is no npz file: run `nfkern data import '{file}' --name my-robot`")
    for use in (Verify(str(file)).run, Info(str(file)).run, lambda: TransitionDataset.load(str(file))):
        with pytest.raises(UserError, match=message):
            use()


def test_info_describes_the_data_and_draws_them(point_maze_dir, tmp_path, capsys):  # noqa: F811
    plot = tmp_path / "deep" / "plot.png"
    assert Info(POINT_MAZE, point_maze_dir, plot=plot).run() == 0
    output = capsys.readouterr().out
    for text in ("generated with seed 0", "local sample", "1000 transitions, 10 episodes of 100", "maze cells visited"):
        assert text in output
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_info_shortens_long_observations(tmp_path, capsys):
    for suffix in ("", "-val"):
        arrays = {**GOOD, "observations": np.arange(80.0).reshape(4, 20)}
        np.savez(tmp_path / f"cube-single-play-v0{suffix}.npz", **arrays)
    assert Info("cube-single-play-v0", tmp_path, plot=tmp_path / "plot.svg").run() == 0
    output = capsys.readouterr().out
    assert "no manifest" in output
    assert "8 more" in output
    assert Info("cube-single-play-v0", tmp_path, every_dimension=True).run() == 0
    assert " more" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["file", "maze"])
@pytest.mark.parametrize(
    "column",
    [
        1.7e9 + np.array([0, 128, 256, 384]),  # float32 knows every 128th second of the present.
        [-1e38, 1e38, 0, 1],
        [1e38] * 4,
    ],
    ids=["epoch", "large", "constant"],
)
def test_info_draws_whatever_verify_passes(column, name, tmp_path, capsys):
    path = tmp_path / f"{name}.npz"
    np.savez(path, **{**GOOD, "observations": np.stack([column, [0, 1, 2, 3]], 1).astype(np.float32)})
    assert Verify(str(path)).run() == 0
    assert Info(str(path), plot=tmp_path / "plot.png").run() == 0
    assert "█" in capsys.readouterr().out
    assert (tmp_path / "plot.png").exists()


@pytest.mark.slow
def test_info_counts_episodes_that_solve_the_tasks(point_maze_dir, capsys):  # noqa: F811
    assert Info(POINT_MAZE, point_maze_dir, tasks=True).run() == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert "task 1" in line
    assert "task 5" in line


def test_text_pictures():
    assert bars(np.array([0.0] * 8 + [1.0]), bins=4) == "█  ▁"
    # Centres of cells (row, column) = (1, 1), (1, 2) and (2, 1), the first of them twice.
    positions = np.array([[0.0, 0.0], [1.9, 0.0], [4.0, 0.0], [0.0, 4.0]])
    assert visited_cells(positions) == 3
    lines = coverage(positions)
    assert len(lines) == 3
    assert lines[0].strip()
    assert not lines[1].strip()


def test_generate_has_nothing_to_do_for_equal_data(point_maze_dir, tmp_path, capsys):  # noqa: F811
    plan = GenerationPlan.from_transitions(RECIPES[POINT_MAZE], 1000)
    for path in point_maze_dir.glob("*.npz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Manifest(POINT_MAZE, "generated", {}, plan.parameters).write(tmp_path / f"{POINT_MAZE}.json")
    assert Generate(POINT_MAZE, transitions=1000, dataset_dir=tmp_path).run() == 0
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="train_episodes 1 instead of 2"):
        Generate(POINT_MAZE, transitions=2000, dataset_dir=tmp_path).run()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "antmaze-large-stitch-v0"}, "trained policies"),
        ({"name": POINT_MAZE, "transitions": 0}, "transitions must be at least 1, got 0"),
        ({"name": POINT_MAZE, "seed": -1}, "seed must be at least 0, got -1"),
        ({"name": POINT_MAZE, "workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_generate_refuses_bad_input_in_one_line(arguments, says, tmp_path):
    with pytest.raises(UserError, match=says):
        Generate(**arguments, dataset_dir=tmp_path).run()


def test_commands_parse():
    parsed = tyro.cli(Generate, args=[POINT_MAZE, "--transitions", "5", "--seed", "3", "--workers", "2", "--overwrite"])
    assert parsed == Generate(POINT_MAZE, transitions=5, seed=3, workers=2, overwrite=True)
    assert tyro.cli(Info, args=[POINT_MAZE, "--every-dimension"]).every_dimension


def test_histograms_survive_damaged_values():
    assert len(bars(np.array([0.0, np.nan, 1.0, np.inf]))) == 16
    assert bars(np.array([np.nan])) == "no finite value"
