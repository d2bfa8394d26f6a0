import numpy as np
import pytest

from nfkern.algorithms.envs.mazes import MAZES, MazeLayout, layout


def distances(maze: MazeLayout) -> dict[tuple[int, int], int]:
    """Steps from the start to each cell that can be reached."""
    found, frontier = {maze.start: 0}, [maze.start]
    for row, column in frontier:
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            cell = (row + down, column + right)
            if not maze.walls[cell] and cell not in found:
                found[cell] = found[row, column] + 1
                frontier.append(cell)
    return found


def test_there_are_six_mazes() -> None:
    agents, shapes = ("point", "ant"), ("u-maze", "big-maze", "hardest-maze")
    assert list(MAZES) == [f"{agent}-{shape}" for agent in agents for shape in shapes]


@pytest.mark.parametrize(
    ("shape", "size", "free", "farthest", "hard"),
    [
        ("u-maze", (5, 5), 7, 6, [6]),
        ("big-maze", (8, 8), 26, 11, [8, 9, 8, 9, 11, 10]),
        ("hardest-maze", (9, 12), 46, 15, [13, 15, 15]),
    ],
)
def test_layouts(shape: str, size: tuple[int, int], free: int, farthest: int, hard: list[int]) -> None:
    point, ant = layout(f"point-{shape}"), layout(f"ant-{shape}")
    np.testing.assert_array_equal(point.walls, ant.walls)
    assert (point.cell_size, ant.cell_size) == (1.0, 4.0)
    assert (point.tolerance, ant.tolerance) == (0.125, 0.5)
    assert ant.extent == (-2.0 * size[1], 2.0 * size[1], -2.0 * size[0], 2.0 * size[0])
    assert ant.walls.shape == size
    assert ant.walls[[0, -1]].all()
    assert ant.walls[:, [0, -1]].all()
    assert len(ant.free) == free
    assert ant.start == (1, 1)
    assert set(ant.goals) == set(ant.free) - {ant.start}
    assert len(ant.goals) == free - 1
    reached = distances(ant)
    assert set(reached) == set(ant.free)
    assert max(reached.values()) == farthest
    assert [reached[goal] for goal in ant.hard_goals] == hard
    assert not ant.walls.flags.writeable


def test_centers_and_cells_are_inverses() -> None:
    maze = layout("ant-hardest-maze")
    grid = np.array([[maze.center(row, column) for column in range(12)] for row in range(9)])
    assert tuple(grid[0, 0]) == (-22.0, 16.0)
    assert tuple(grid[8, 11]) == (22.0, -16.0)
    expected = np.stack(np.meshgrid(range(9), range(12), indexing="ij"), axis=-1)
    for shift in ([0.0, 0.0], [1.9, -1.9], [-1.9, 1.9]):
        found = maze.cells(grid + shift)
        assert np.issubdtype(found.dtype, np.integer)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(maze.cells(grid[3, 5] + np.array([2.1, 2.1])), [2, 6])
