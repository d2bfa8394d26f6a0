"""Datasets as Minari's, for whatever reads those."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from nfkern.algorithms.data.transitions import TransitionDataset
from nfkern.errors import UserError


def write_minari(dataset: TransitionDataset, dataset_id: str, *, env: str | None = None, description: str = "") -> int:
    """Write a dataset into Minari's folder (`MINARI_DATASETS_PATH`), in the order of its episodes.

    An episode of L transitions has L + 1 observations and L actions there: the action of a last row, which led nowhere
    that was seen, is left out. An episode is terminated where its last transition's mask is 0, else truncated. Further
    arrays, such as `qpos`, become `infos`.

    Args:
        dataset: the episodes; rewards are 0 where it has none.
        dataset_id: Minari's name for it, such as "pointmaze/medium-navigate-v0".
        env: id of a registered gymnasium environment, kept as metadata.
        description: kept as metadata.

    Returns:
        The number of steps.

    Raises:
        UserError: the name is taken or not one of Minari's, or there is no such environment.
    """
    import gymnasium
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id

    low, high = dataset.actions.min(0), dataset.actions.max(0)
    # Of what is in the data: an environment's own spaces may have other parts, and Minari refuses data beyond them.
    spaces = {
        "observation_space": gymnasium.spaces.Box(-np.inf, np.inf, (dataset.observation_size,), np.float32),
        "action_space": gymnasium.spaces.Box(low, high, dtype=np.float32),
    }
    try:
        parse_dataset_id(dataset_id)
        if env is not None:
            gymnasium.spec(env)
    except (ValueError, gymnasium.error.Error) as error:
        raise UserError(f"{dataset_id}: {error}") from error
    if dataset_id in minari.list_local_datasets():
        raise UserError(f"{dataset_id}: Minari has a dataset of this name; `minari delete {dataset_id}` removes it")
    try:
        with warnings.catch_warnings():
            # Of an author and a link that are not given.
            warnings.simplefilter("ignore", UserWarning)
            written = minari.create_dataset_from_buffers(
                dataset_id, list(_episodes(dataset)), eval_env=env, description=description or None, **spaces
            )
    except BaseException:
        if dataset_id in minari.list_local_datasets():
            minari.delete_dataset(dataset_id)
        raise
    return int(written.total_steps)


def _episodes(dataset: TransitionDataset) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    for start, end in zip(dataset.episode_starts, dataset.episode_ends, strict=True):
        last = np.arange(start, end) == end - 1
        ended = last & (dataset.masks[start:end] == 0) if dataset.masks is not None else np.zeros_like(last)
        yield EpisodeBuffer(
            observations=dataset.observations[start : end + 1],
            actions=dataset.actions[start:end],
            rewards=dataset.rewards[start:end] if dataset.rewards is not None else np.zeros(end - start, np.float32),
            terminations=ended,
            truncations=last & ~ended,
            infos={name: array[start : end + 1] for name, array in dataset.extras.items()},
        )
