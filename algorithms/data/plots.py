"""A picture of a dataset."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .summary import HISTOGRAM_ROWS, SHOWN_DIMENSIONS, histogram, is_maze
from .transitions import TransitionDataset

TRAJECTORIES = 5


def save_plot(name: str, dataset: TransitionDataset, path: Path) -> None:
    """Draw the positions in a maze with some trajectories, or else histograms of the first observation features.

    Args:
        name: OGBench's dataset name.
        dataset: What to draw.
        path: Where to save; the suffix decides on the format (png, pdf, svg).
    """
    # A bare Figure: pyplot would choose a backend for the whole process.
    figure = Figure(figsize=(8, 6), layout="constrained")
    if is_maze(name):
        _draw_positions(figure, dataset)
    else:
        _draw_histograms(figure, dataset)
    figure.suptitle(f"{name}: {len(dataset)} transitions, {dataset.episodes} episodes")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_positions(figure: Figure, dataset: TransitionDataset) -> None:
    axes = figure.subplots()
    positions = dataset.observations[:, :2].astype(np.float64)
    least = positions.min(0)
    x, y = (positions - least).T
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=120)
    image = axes.pcolormesh(x_edges + least[0], y_edges + least[1], np.log10(counts.T + 1), cmap="Greys")
    figure.colorbar(image, ax=axes, label="visits, log10(1 + n)")
    for start, end in zip(dataset.episode_starts[:TRAJECTORIES], dataset.episode_ends, strict=False):
        axes.plot(positions[start : end + 1, 0], positions[start : end + 1, 1], linewidth=0.8)
    axes.set(xlabel="x (m)", ylabel="y (m)", aspect="equal")


def _draw_histograms(figure: Figure, dataset: TransitionDataset) -> None:
    shown = min(SHOWN_DIMENSIONS, dataset.observation_size)
    sample = dataset.observations[:: -(-len(dataset.observations) // HISTOGRAM_ROWS), :shown]
    columns = 4
    all_axes = figure.subplots(-(-shown // columns), columns, squeeze=False).ravel()
    for k, axes in enumerate(all_axes):
        if k >= shown:
            axes.set_axis_off()
            continue
        axes.stairs(*histogram(sample[:, k], bins=60), fill=True)
        axes.set_title(f"observation {k}", fontsize="small")
        axes.tick_params(labelsize="x-small")
