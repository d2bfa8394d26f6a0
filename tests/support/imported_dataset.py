"""Importing small sources, and comparing what came of them."""

from pathlib import Path

import numpy as np

from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.data.importing import ImportOptions
from nfkern.algorithms.data.importing.convert import import_demonstrations
from nfkern.algorithms.data.manifest import Manifest

NAME = "mine-v0"


def imported(source: Path, directory: Path, **options: object) -> Manifest:
    return import_demonstrations(source, NAME, directory, overwrite=True, options=ImportOptions(**options))


def transitions(directory: Path, extras: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Those of both splits together."""
    parts = []
    for split in ("train", "val"):
        data = TransitionDataset.load(NAME, directory, split=split, extras=extras)
        rows, _ = data.locate(np.arange(len(data)))
        parts.append(data.regular() | {key: data.extras[key][rows] for key in extras})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def same_steps(mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    """Whether two datasets have the same transitions in any order, number by number in float32."""
    keys = list(theirs)
    tables = [
        np.concatenate([np.asarray(each[key], np.float32).reshape(len(each[key]), -1) for key in keys], 1)
        for each in (mine, theirs)
    ]
    tables = [table[np.lexsort(table.T)] for table in tables]
    np.testing.assert_array_equal(*tables)
