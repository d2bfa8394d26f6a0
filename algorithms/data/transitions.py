"""Offline trajectories, with OGBench's meaning of rows, transitions and terminals."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfkern.errors import UserError

from .files import dataset_file, how_to_get
from .manifest import DEFAULT_DATASET_DIR, recorded_sha256, sha256_of
from .reading import check_finite, read_dataset

# Transitions that one step of a whole-dataset pass holds in memory.
CHUNK = 1 << 16


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of a set of vectors, each array of shape (features,), float32."""

    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics for a normaliser, over all transitions of a dataset."""

    observations: ColumnStatistics
    actions: ColumnStatistics


class TransitionDataset:
    """Episodes stored row by row, addressed by transition.

    A file holds rows: an episode of L transitions has L + 1 of them, and its last row (terminal = 1) is the state in
    which it ended. That row has an action, but nobody saw where it led, so it begins no transition. Transition t of
    `range(len(dataset))` starts at some row r and leads to row r + 1: this is OGBench's regular format, without its
    copies.

    `terminals` mark where an episode was cut; they say nothing about the environment having ended. That is the
    meaning of `masks` (0 where bootstrapping stops), which exist only once a task has given the rows a reward, or
    once a goal has been drawn (see `BatchSampler`).

    Args:
        observations: Shape (rows, observation_size).
        actions: Shape (rows, action_size).
        terminals: Shape (rows,), non-zero at the last row of every episode.
        rewards: Shape (rows,): reward of the transition that starts at each row, if a task is known.
        masks: Shape (rows,): 0 where the task ended with that transition, else 1. Given with `rewards`.
        extras: More arrays by row, such as `qpos` (rows, ...).
        name: A name for messages.

    Raises:
        ValueError: If shapes do not fit together, or the last row ends no episode.
        TypeError: If values are no numbers.
    """

    def __init__(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        terminals: np.ndarray,
        *,
        rewards: np.ndarray | None = None,
        masks: np.ndarray | None = None,
        extras: Mapping[str, np.ndarray] | None = None,
        name: str = "dataset",
    ) -> None:
        self.name = name
        self.observations = _rows_of_floats("observations", observations, 2)
        self.actions = _rows_of_floats("actions", actions, 2)
        self.extras = dict(extras or {})
        self._set_rewards(rewards, masks)
        for column, array in {"actions": self.actions, "terminals": terminals, **self.extras}.items():
            self._check_rows(column, array)
        terminals = np.asarray(terminals)
        if terminals.ndim != 1 or len(terminals) == 0 or not terminals[-1]:
            raise ValueError(
                f"terminals must have shape (rows,) and be non-zero in the last row, got shape {terminals.shape}"
            )
        self.episode_ends = np.flatnonzero(terminals)
        self.episode_starts = np.concatenate([[0], self.episode_ends[:-1] + 1])
        # Transitions up to the end of each episode; the search in `locate` turns transitions into rows.
        self._transitions_until = np.cumsum(self.episode_ends - self.episode_starts)
        if len(self) == 0:
            raise ValueError(f"{name} holds no transition: every episode needs at least two rows")

    @classmethod
    def load(
        cls,
        source: str | Path,
        dataset_dir: Path = DEFAULT_DATASET_DIR,
        *,
        split: str = "train",
        rewards: bool | None = None,
        extras: Iterable[str] = (),
        memory_map: bool = True,
    ) -> "TransitionDataset":
        """Load one split of a dataset; a file that a manifest lies beside must have the checksum that it names.

        Args:
            source: OGBench's name, or the path of an npz file, NAME.npz, whose validation is NAME-val.npz.
            dataset_dir: Where names are looked up.
            split: `train` or `val`.
            rewards: Whether to read rewards and masks, where the file has them; None for where it has both.
            extras: Names of further arrays to read, such as `qpos`; those that the file lacks are left out.
            memory_map: Map uncompressed files (such as those that nfkern generates) instead of loading them:
                datasets larger than memory work, and several processes share one copy.

        Raises:
            UserError: If the file is not there, is no dataset, or is another one than its manifest says.
        """
        if split not in ("train", "val"):
            raise ValueError(f"split must be 'train' or 'val', got {split!r}")
        path = dataset_file(source, dataset_dir, split)
        if not path.is_file():
            raise UserError(f"there is no dataset file {path}: {how_to_get(path)}")
        recorded = recorded_sha256(path)
        if recorded is not None and sha256_of(path) != recorded:
            raise UserError(
                f"{path} is not the file of its manifest: expected sha256 {recorded}, got {sha256_of(path)}; make it "
                "again, or move the manifest away"
            )
        try:
            return cls.read(path, rewards=rewards, extras=extras, memory_map=memory_map, trusted=recorded is not None)
        except ValueError as error:
            raise UserError(f"{path} is no usable dataset: {error}") from error

    def draw_episodes(self, count: int, seed: int = 0) -> "TransitionDataset":
        """A dataset of `count` of the episodes, drawn at random and copied, in their order.

        Raises:
            ValueError: there are fewer.
        """
        if not 1 <= count <= self.episodes:
            raise ValueError(f"count: expected 1 to {self.episodes}, the episodes of {self.name}, got {count}")
        chosen = np.sort(np.random.default_rng(seed).choice(self.episodes, count, replace=False))
        starts, ends = self.episode_starts[chosen], self.episode_ends[chosen] + 1
        rows = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
        terminals = np.zeros(len(rows), bool)
        terminals[np.cumsum(ends - starts) - 1] = True
        return TransitionDataset(
            self.observations[rows],
            self.actions[rows],
            terminals,
            rewards=None if self.rewards is None else self.rewards[rows],
            masks=None if self.masks is None else self.masks[rows],
            extras={name: array[rows] for name, array in self.extras.items()},
            name=f"{self.name} ({count} of {self.episodes} episodes)",
        )

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        rewards: bool | None = None,
        extras: Iterable[str] = (),
        memory_map: bool = True,
        trusted: bool = False,
    ) -> "TransitionDataset":
        """Read a file in the stored format, whatever lies beside it.

        Args:
            path: The file.
            rewards: As for `load`.
            extras: As for `load`.
            memory_map: As for `load`.
            trusted: Whether its bytes have been compared with a checksum already.

        Raises:
            ValueError: If it is no dataset; the message has the column, and the row where there is one.
        """
        arrays = read_dataset(path, rewards=rewards, extras=extras, memory_map=memory_map, trusted=trusted)
        observations, actions, terminals = (arrays.pop(key) for key in ("observations", "actions", "terminals"))
        known, masks = arrays.pop("rewards", None), arrays.pop("masks", None)
        try:
            dataset = cls(observations, actions, terminals, rewards=known, masks=masks, extras=arrays, name=path.stem)
        except TypeError as error:
            raise ValueError(str(error)) from error
        columns = {"observations": dataset.observations, "actions": dataset.actions, "rewards": dataset.rewards}
        for key, column in (columns | dataset.extras).items():
            if column is not None:
                check_finite(path, key, column)
        return dataset

    def with_rewards(self, rewards: np.ndarray, masks: np.ndarray) -> "TransitionDataset":
        """Return a copy with other rewards and masks, both (rows,); all other arrays are shared.

        Raises:
            ValueError: If shapes do not fit.
        """
        dataset = copy.copy(self)
        dataset._set_rewards(rewards, masks)
        return dataset

    def _set_rewards(self, rewards: np.ndarray | None, masks: np.ndarray | None) -> None:
        if (rewards is None) != (masks is None):
            raise ValueError("rewards and masks must be given together")
        self.rewards = None if rewards is None else _rows_of_floats("rewards", rewards, 1)
        self.masks = None if masks is None else _rows_of_floats("masks", masks, 1)
        for column, array in {"rewards": self.rewards, "masks": self.masks}.items():
            if array is not None:
                self._check_rows(column, array)

    def _check_rows(self, column: str, array: np.ndarray) -> None:
        if len(array) != len(self.observations):
            raise ValueError(f"{column} has {len(array)} rows, but observations has {len(self.observations)}")

    def __len__(self) -> int:
        """Number of transitions."""
        return int(self._transitions_until[-1])

    def __repr__(self) -> str:
        return (
            f"TransitionDataset({self.name}: {len(self)} transitions in {self.episodes} episodes, "
            f"observations {self.observation_size}, actions {self.action_size})"
        )

    @property
    def observation_size(self) -> int:
        """Features of one observation."""
        return int(self.observations.shape[1])

    @property
    def action_size(self) -> int:
        """Features of one action."""
        return int(self.actions.shape[1])

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_ends)

    @property
    def episode_lengths(self) -> np.ndarray:
        """Transitions of each episode, shape (episodes,)."""
        return np.asarray(self.episode_ends - self.episode_starts)

    def locate(self, transitions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row at which each transition starts, and its episode; both have the shape of `transitions`."""
        episodes = np.searchsorted(self._transitions_until, transitions, side="right")
        # Every earlier episode has one row that starts no transition.
        return transitions + episodes, episodes

    def regular(self, transitions: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return transitions in OGBench's regular format, as copies.

        Args:
            transitions: Which ones; all by default.

        Returns:
            `observations`, `actions`, `next_observations` and `terminals` (1 at each episode's last transition),
            and `rewards` and `masks` where the dataset has them.
        """
        rows, episodes = self.locate(np.arange(len(self)) if transitions is None else np.asarray(transitions))
        batch = {
            "observations": self.observations[rows],
            "actions": self.actions[rows],
            "next_observations": self.observations[rows + 1],
            "terminals": (rows + 1 == self.episode_ends[episodes]).astype(np.float32),
        }
        if self.rewards is not None and self.masks is not None:
            batch |= {"rewards": self.rewards[rows], "masks": self.masks[rows]}
        return batch

    def statistics(self) -> DatasetStatistics:
        """Return mean, standard deviation, minimum and maximum of observations and actions over all transitions."""
        return DatasetStatistics(self._column_statistics(self.observations), self._column_statistics(self.actions))

    def _column_statistics(self, column: np.ndarray) -> ColumnStatistics:
        minimum, maximum = np.full(column.shape[1], np.inf), np.full(column.shape[1], -np.inf)
        total, squares = np.zeros(column.shape[1]), np.zeros(column.shape[1])
        # Sums around one sample: sums around zero would cancel where the mean is large.
        origin = column[0].astype(np.float64)
        for first in range(0, len(self), CHUNK):
            rows, _ = self.locate(np.arange(first, min(first + CHUNK, len(self))))
            values = column[rows]
            minimum, maximum = np.minimum(minimum, values.min(0)), np.maximum(maximum, values.max(0))
            centred = values - origin
            total += centred.sum(0)
            squares += np.square(centred).sum(0)
        mean = total / len(self)
        variance = np.maximum(squares / len(self) - np.square(mean), 0.0)
        results = (origin + mean, np.sqrt(variance), minimum, maximum)
        return ColumnStatistics(*(result.astype(np.float32) for result in results))


def difference(train: TransitionDataset, val: TransitionDataset) -> str | None:
    """Return how the features of two splits differ, so that no policy reads both; None where they agree."""
    sizes = [(each.observation_size, each.action_size) for each in (train, val)]
    if sizes[0] == sizes[1]:
        return None
    of = "{} has observations of {} and actions of {} features".format
    return f"expected splits of one kind, but {of(train.name, *sizes[0])}, {of(val.name, *sizes[1])}"


def _rows_of_floats(argument: str, array: np.ndarray, dimensions: int) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != dimensions:
        raise ValueError(f"{argument} must have {dimensions} dimensions (rows first), got shape {array.shape}")
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{argument} must hold numbers, got dtype {array.dtype}")
    if dimensions == 2 and array.shape[1] == 0:
        raise ValueError(f"{argument} must have at least one feature, got shape {array.shape}")
    # What float32 cannot hold becomes infinite; files are checked for that.
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)
