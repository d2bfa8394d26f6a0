"""The folder of an unfinished generation: one file per finished episode, and the parameters they were made with."""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfkern.algorithms.data.archive import column_specs, concatenated, write_npz
from nfkern.errors import UserError
from nfkern.host.files import atomic_file, write_json


@dataclass(frozen=True)
class EpisodeStore:
    """Finished episodes on disk.

    Every file appears complete or not at all, so a process may be killed at any moment, and several may write at once.

    Args:
        folder: Where the episodes lie.
    """

    folder: Path

    @property
    def _parameters_path(self) -> Path:
        return self.folder / "parameters.json"

    def open(self, parameters: dict[str, Any], discard_other: bool) -> None:
        """Create the folder, or continue one that was made with the same parameters.

        Raises:
            UserError: If it holds episodes made with other parameters and `discard_other` is false.
        """
        if self._parameters_path.exists() and not self.matches(parameters):
            if not discard_other:
                raise UserError(
                    f"{self.folder} holds an interrupted generation with other parameters or package versions "
                    f"({describe_differences(self._stored(), parameters)}): "
                    "repeat its command, or start anew with --overwrite"
                )
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self._parameters_path, parameters)

    def matches(self, parameters: dict[str, Any]) -> bool:
        """Return whether the folder holds episodes made with exactly these parameters (JSON values)."""
        return bool(self._stored() == parameters)

    def path(self, split: str, episode: int) -> Path:
        """Return the file of one episode."""
        return self.folder / f"{split}-{episode:06d}.npz"

    def missing(self, episodes: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """Return the (split, episode) pairs that are not there yet, in order."""
        present = {entry.name for entry in os.scandir(self.folder)}
        return [key for key in episodes if self.path(*key).name not in present]

    def write(self, split: str, episode: int, arrays: dict[str, np.ndarray]) -> None:
        """Store one episode."""
        with atomic_file(self.path(split, episode)) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stub mistakes the arrays for allow_pickle

    def join(self, split: str, episodes: int, destination: Path) -> None:
        """Write all episodes of a split into one npz file, in constant memory."""
        paths = [self.path(split, episode) for episode in range(episodes)]
        write_npz(destination, (concatenated(name, paths) for name in column_specs(paths[0])))

    def remove(self) -> None:
        """Delete the folder; a worker that is still dying may leave a file behind."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _stored(self) -> Any:
        try:
            return json.loads(self._parameters_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def describe_differences(stored: Any, wanted: Any, prefix: str = "") -> str:
    """Return a text such as `seed 0 instead of 1` on where two nested dictionaries differ."""
    if not isinstance(stored, dict) or not isinstance(wanted, dict):
        return f"{prefix} {stored} instead of {wanted}"
    changes = [
        describe_differences(stored.get(key), wanted.get(key), key)
        for key in dict.fromkeys([*stored, *wanted])
        if stored.get(key) != wanted.get(key)
    ]
    return ", ".join(changes)
