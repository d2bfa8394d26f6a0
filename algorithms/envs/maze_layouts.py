"""The cells of the mazes: which are walls, where episodes start and what their goals are, in metres."""

import functools
from dataclasses import dataclass

import numpy as np

from nfkern.errors import UserError, closest

# Rows of cells ("#" wall, "R" start, "G" goal) and the goals of the hard evaluation.
_LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[tuple[int, int], ...]]] = {
    "u-maze": (("#####", "#RGG#", "###G#", "#GGG#", "#####"), ((3, 1),)),
    "big-maze": (
        ("########", "#RG##GG#", "#GG#GGG#", "##GGG###", "#GG#GGG#", "#G#GG#G#", "#GGG#GG#", "########"),
        ((1, 5), (1, 6), (2, 6), (6, 3), (6, 5), (6, 6)),
    ),
    "hardest-maze": (
        (
            "############",
            "#RGGG#GGGGG#",
            "#G##G#G#G#G#",
            "#GGGGGG#GGG#",
            "#G####G###G#",
            "#GG#G#GGGGG#",
            "##G#G#G#G###",
            "#GG#GGG#GGG#",
            "############",
        ),
        ((3, 8), (5, 4), (7, 10)),
    ),
}
_CELL_SIZES = {"point": 1.0, "ant": 4.0}
# A fraction of a cell: 0.5 m for the ant. The point mass covers 0.05 of a cell per step at most, so that it cannot pass
# over the middle of a goal unnoticed.
_TOLERANCE = 0.125

MAZES: tuple[str, ...] = tuple(f"{agent}-{maze}" for agent in _CELL_SIZES for maze in _LAYOUTS)


@dataclass(frozen=True, eq=False)
class MazeLayout:
    """A maze's cells: walls, start, goals, and their coordinates.

    Cells are counted as (row, column) from (0, 0) at the top left; x grows with the columns and y falls with the rows,
    both from 0 in the middle of the maze.

    Attributes:
        walls: bool of shape (rows, columns), True where nobody can be; read-only.
        cell_size: side of a cell, in metres.
        start: the cell that every episode starts in.
        goals: the cells that hold goals, row by row: all free ones but the start.
        hard_goals: those of the hard evaluation.
    """

    walls: np.ndarray
    cell_size: float
    start: tuple[int, int]
    goals: tuple[tuple[int, int], ...]
    hard_goals: tuple[tuple[int, int], ...]

    @property
    def free(self) -> list[tuple[int, int]]:
        """The cells without walls, row by row."""
        return [(int(row), int(column)) for row, column in np.argwhere(~self.walls)]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(x_min, x_max, y_min, y_max) in metres, the outer walls included: matplotlib's `imshow(extent=)`."""
        rows, columns = self.walls.shape
        half_width, half_height = columns * self.cell_size / 2, rows * self.cell_size / 2
        return -half_width, half_width, -half_height, half_height

    @property
    def tolerance(self) -> float:
        """A position nearer to the goal than this is a success, in metres."""
        return _TOLERANCE * self.cell_size

    def center(self, row: int, column: int) -> tuple[float, float]:
        """The middle of a cell, (x, y) in metres."""
        x_min, _, _, y_max = self.extent
        return x_min + (column + 0.5) * self.cell_size, y_max - (row + 0.5) * self.cell_size

    def cells(self, positions: np.ndarray) -> np.ndarray:
        """The cells that positions lie in.

        Args:
            positions: (..., 2), x and y in metres.

        Returns:
            (..., 2) int64, row and column; beyond the maze's edge they go on counting.
        """
        positions = np.asarray(positions, dtype=np.float64)
        x_min, _, _, y_max = self.extent
        downwards = np.stack([y_max - positions[..., 1], positions[..., 0] - x_min], axis=-1)
        cells: np.ndarray = np.floor(downwards / self.cell_size).astype(np.int64)
        return cells


@functools.cache
def layout(name: str) -> MazeLayout:
    """The cells of a maze.

    Raises:
        UserError: the name is not one of `MAZES`.
    """
    if name not in MAZES:
        meant = closest(name, MAZES)
        hint = f"; did you mean {meant}?" if meant else ""
        raise UserError(f"unknown maze {name!r}: expected one of {', '.join(MAZES)}{hint}")
    agent, _, maze = name.partition("-")
    rows, hard_goals = _LAYOUTS[maze]
    marks = np.array([list(row) for row in rows])
    walls = marks == "#"
    walls.setflags(write=False)
    (start,) = _where(marks, "R")
    return MazeLayout(walls, _CELL_SIZES[agent], start, tuple(_where(marks, "G")), hard_goals)


def _where(marks: np.ndarray, mark: str) -> list[tuple[int, int]]:
    return [(int(row), int(column)) for row, column in np.argwhere(marks == mark)]
