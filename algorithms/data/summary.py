"""The summary that `nfkern data info` prints."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from .manifest import Manifest
from .task_rewards import with_task_rewards
from .transitions import TransitionDataset

# OGBench's mazes: side of a cell, and offset of the first cell's centre.
MAZE_UNIT, MAZE_OFFSET = 4.0, 4.0
TASKS = 5
BARS = " ▁▂▃▄▅▆▇█"
SHADES = " ░▒▓█"
# More rows add nothing to a histogram of a dozen bins.
HISTOGRAM_ROWS = 200_000
SHOWN_DIMENSIONS = 12
# Characters of a map's line, and lines.
MAP_LIMIT = 200


def is_maze(name: str) -> bool:
    """Return whether the first two observation features are a position in one of OGBench's mazes."""
    return "maze" in name or "soccer" in name


def describe(
    name: str,
    manifest: Manifest | None,
    paths: Mapping[str, Path],
    splits: Mapping[str, TransitionDataset],
    every_dimension: bool,
) -> Iterator[str]:
    """Yield the lines that describe a dataset."""
    yield f"{name} in {next(iter(paths.values())).parent}"
    yield from _origin(manifest)
    for split, dataset in splits.items():
        yield _split_line(split, dataset, paths[split].stat().st_size)
    dataset = next(iter(splits.values()))
    statistics = dataset.statistics()
    for title, values, numbers in (
        ("observations", dataset.observations, statistics.observations),
        ("actions", dataset.actions, statistics.actions),
    ):
        yield f"\n{title} ({values.shape[1]} features, float32)"
        yield f"  {'':>4} {'min':>10} {'mean':>10} {'max':>10} {'std':>10}  distribution"
        shown = values.shape[1] if every_dimension else min(SHOWN_DIMENSIONS, values.shape[1])
        sample = values[:: -(-len(values) // HISTOGRAM_ROWS), :shown]
        for k in range(shown):
            columns = (numbers.min[k], numbers.mean[k], numbers.max[k], numbers.std[k])
            yield f"  {k:>4} " + " ".join(f"{value:>10.4g}" for value in columns) + f"  {bars(sample[:, k])}"
        if shown < values.shape[1]:
            yield f"  ... {values.shape[1] - shown} more: --every-dimension"
    if is_maze(name):
        positions = dataset.observations[:, :2]
        yield f"\npositions: {visited_cells(positions)} maze cells visited"
        yield from coverage(positions)


def _origin(manifest: Manifest | None) -> Iterator[str]:
    if manifest is None:
        yield "no manifest: origin unknown"
        return
    if manifest.origin == "downloaded":
        yield f"downloaded from {manifest.source}"
        return
    if manifest.origin == "imported":
        yield manifest.note
        yield from (f"  {note}" for note in manifest.parameters.get("notes", ()))
        return
    versions = ", ".join(f"{package} {version}" for package, version in manifest.versions.items())
    yield f"generated with seed {manifest.parameters.get('seed', 'unknown')} ({versions})"
    yield manifest.note


def _split_line(split: str, dataset: TransitionDataset, size: int) -> str:
    lengths = dataset.episode_lengths
    low, high = int(lengths.min()), int(lengths.max())
    length = str(low) if low == high else f"{low} to {high}, median {int(np.median(lengths))}"
    return f"  {split:<5} {len(dataset):>9} transitions, {dataset.episodes} episodes of {length}, {size / 1e6:.1f} MB"


def bars(values: np.ndarray, bins: int = 16) -> str:
    """Return a histogram of a vector's finite values as a line of block characters; damage is told by `verify`."""
    values = values[np.isfinite(values)]
    if not len(values):
        return "no finite value"
    counts, _ = histogram(values, bins)
    # Rounded up, so that only an empty bin is blank.
    heights = np.ceil(counts / counts.max() * (len(BARS) - 1)).astype(int)
    return "".join(BARS[height] for height in heights)


def histogram(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return counts (bins,) and edges (bins + 1,) of a vector; of any finite float32 values, narrow or large.

    In float64 and from the least value on: numpy finds no edges within a few roundings of a number.
    """
    values = values.astype(np.float64)
    counts, edges = np.histogram(values - values.min(), bins)
    return counts, edges + values.min()


def maze_cells(positions: np.ndarray) -> np.ndarray:
    """Return the (row, column) of the maze cell that each (x, y) position lies in."""
    return np.floor((positions[:, ::-1].astype(np.float64) + MAZE_OFFSET + MAZE_UNIT / 2) / MAZE_UNIT)


def visited_cells(positions: np.ndarray) -> int:
    """Return in how many maze cells the positions lie."""
    return len(np.unique(maze_cells(positions), axis=0))


def coverage(positions: np.ndarray) -> list[str]:
    """Return a map of how often each place was visited, north up, as lines of shaded characters."""
    columns_per_unit, lines_per_unit = 1.5, 0.75
    positions = positions - positions.min(0).astype(np.float64)
    width, height = positions.max(0)
    # No maze is as wide as the limit: such positions are not in metres, or no positions.
    shape = [
        min(MAP_LIMIT, max(1, round(side * each)))
        for side, each in ((height, lines_per_unit), (width, columns_per_unit))
    ]
    counts, _, _ = np.histogram2d(positions[:, 1], positions[:, 0], bins=shape)
    shades = np.ceil(np.log1p(counts) / np.log1p(counts.max()) * (len(SHADES) - 1)).astype(int)
    return ["  " + "".join(SHADES[shade] for shade in line).rstrip() for line in shades[::-1]]


def solved_shares(name: str, dataset: TransitionDataset) -> list[float]:
    """Return, for each of OGBench's evaluation tasks, the share of episodes that pass through its goal.

    Needs the ogbench package (it builds each task's environment), and a dataset loaded with `RELABEL_COLUMNS`.
    """
    shares = []
    for task in range(1, TASKS + 1):
        masks = with_task_rewards(dataset, re.sub(r"(-v\d+)$", rf"-singletask-task{task}\1", name)).masks
        assert masks is not None
        shares.append(float(np.logical_or.reduceat(masks == 0, dataset.episode_starts).mean()))
    return shares
