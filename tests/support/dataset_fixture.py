"""Datasets for tests: tiny real ones, generated on the fly, and synthetic ones whose numbers tell where they lie."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.data.generation.generate import GenerationPlan, generate
from nfkern.algorithms.data.recipes import RECIPES

POINT_MAZE = "pointmaze-medium-navigate-v0"


def point_maze_plan(
    train_episodes: int = 10, val_episodes: int = 10, episode_rows: int = 101, seed: int = 0
) -> GenerationPlan:
    """A small plan for real point-maze data."""
    recipe = dataclasses.replace(RECIPES[POINT_MAZE], episode_rows=episode_rows)
    return GenerationPlan(recipe, train_episodes, val_episodes, seed)


@pytest.fixture(scope="session")
def point_maze_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `POINT_MAZE`: 10 + 10 episodes of 100 transitions, generated once per session (some seconds).

    Import it by name into a test module. Treat the folder as read-only.
    """
    # One folder for every module that imports this fixture: an existing dataset is left alone.
    directory = tmp_path_factory.getbasetemp() / "point-maze"
    generate(point_maze_plan(), directory, workers=1, progress=False)
    return directory


def numbered_dataset(lengths: list[int], observation_size: int = 2, action_size: int = 1) -> TransitionDataset:
    """Episodes with these numbers of transitions; observations are (row, episode, 0...), actions (row, 0...)."""
    ends = np.cumsum(np.array(lengths) + 1) - 1
    rows = np.arange(ends[-1] + 1)
    terminals = np.zeros(len(rows), dtype=bool)
    terminals[ends] = True
    observations = np.zeros((len(rows), observation_size))
    observations[:, 0], observations[:, 1] = rows, np.searchsorted(ends, rows)
    actions = np.zeros((len(rows), action_size))
    actions[:, 0] = rows
    return TransitionDataset(observations, actions, terminals, name="numbered")
