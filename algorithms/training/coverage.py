"""A picture of the states that an online agent has visited in its maze, and of its density of goals."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nfkern.algorithms.agents.online.base import OnlineGCRL
    from nfkern.algorithms.envs.mazes import MazeLayout

# Pixels along one side of a cell, in both pictures.
RESOLUTION = 16


def save_coverage(path: Path, agent: "OnlineGCRL", maze: "MazeLayout", visited: np.ndarray, step: int) -> None:
    """Draw the maze with the states visited and, for an agent that has one, the marginal density of goals.

    Args:
        path: the picture, a PNG.
        agent: whose density is drawn.
        maze: where it lives.
        visited: (rows, 2), the positions visited.
        step: named in the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    density = _density(agent, maze)
    figure = Figure(figsize=(5 if density is None else 9.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 if density is None else 2, squeeze=False)[0]
    x_min, x_max, y_min, y_max = maze.extent
    shape = (maze.walls.shape[0] * RESOLUTION, maze.walls.shape[1] * RESOLUTION)
    counts, _, _ = np.histogram2d(visited[:, 1], visited[:, 0], shape, [[y_min, y_max], [x_min, x_max]])
    _draw(axes[0], np.log1p(counts), maze, f"visited, {len(visited):,} states (log scale)")
    if density is not None:
        _draw(axes[1], density, maze, "log p(goal), learned")
    figure.suptitle(f"{agent.name}, step {step:,}")
    figure.savefig(path, dpi=110)


def _density(agent: "OnlineGCRL", maze: "MazeLayout") -> np.ndarray | None:
    """Return the log-density at the pixels' centres, lowest row first; None for an agent without one."""
    if not agent.has_density:
        return None
    x_min, x_max, y_min, y_max = maze.extent
    rows, columns = (size * RESOLUTION for size in maze.walls.shape)
    x = x_min + (np.arange(columns) + 0.5) * (x_max - x_min) / columns
    y = y_min + (np.arange(rows) + 0.5) * (y_max - y_min) / rows
    points = np.stack(np.meshgrid(x, y), -1).astype(np.float32)
    with torch.inference_mode():
        density: np.ndarray = agent.log_density(points)
    # Differences far below the maximum mean nothing and would use up the colours.
    shown: np.ndarray = np.maximum(density, density.max() - 12)
    return shown


def _draw(axes: "Axes", values: np.ndarray, maze: "MazeLayout", title: str) -> None:
    axes.imshow(values, extent=maze.extent, origin="lower", cmap="viridis", interpolation="nearest")
    half = maze.cell_size / 2
    for row, column in np.argwhere(maze.walls):
        x, y = maze.center(row, column)
        axes.fill([x - half, x + half, x + half, x - half], [y - half, y - half, y + half, y + half], color="0.75")
    axes.plot(*maze.center(*maze.start), "w^", markersize=8, markeredgecolor="k")
    axes.set(title=title, xlabel="x (m)", ylabel="y (m)", xlim=maze.extent[:2], ylim=maze.extent[2:])
