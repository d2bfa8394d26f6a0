"""Small files in the formats of published demonstrations."""

from pathlib import Path

import numpy as np
import zarr

LENGTHS = (5, 3, 7, 2)
ENDS = np.cumsum(LENGTHS)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def write_zarr(folder: Path, *, state: int = 5) -> tuple[np.ndarray, np.ndarray]:
    # The published files are of zarr's second format.
    root = zarr.open_group(folder, mode="w", zarr_format=2)
    states, actions = random(ENDS[-1], state), random(ENDS[-1], 2)
    for name, array in {"data/state": states, "data/action": actions, "meta/episode_ends": ENDS}.items():
        root.create_array(name, data=array)
    return states, actions
