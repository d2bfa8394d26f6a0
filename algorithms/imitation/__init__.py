"""Tasks for imitation from demonstrations: which there are, and who can demonstrate them.

An environment reports in `info["success"]` whether its task is done and, where a task has stages, in `info["score"]`
which share of them is (0 to 1), as the published tables count.
"""

import importlib
from dataclasses import dataclass
from typing import Protocol

import gymnasium
import numpy as np

NAMESPACE = "nfkern"


@dataclass(frozen=True)
class ImitationTask:
    """One environment and its demonstrations.

    Attributes:
        entry_point: where its class lies.
        max_episode_steps: the limit of an episode, in steps.
        demonstrations: the kind of data that goes with it, as dataset names have it.
        packages: those whose version decides what happens in it.
        expert: where the class of its scripted demonstrator lies; None where only people have demonstrated it.
    """

    entry_point: str
    max_episode_steps: int
    demonstrations: str
    packages: tuple[str, ...]
    expert: str | None = None


_HERE = "nfkern.algorithms.imitation"
TASKS = {
    "pointmass-v0": ImitationTask(
        f"{_HERE}.point_mass:PointMass", 100, "scripted", ("nfkern",), f"{_HERE}.point_mass:PointMassExpert"
    ),
    "blockpush-v0": ImitationTask(
        f"{_HERE}.block_push:BlockPush", 200, "scripted", ("pymunk",), f"{_HERE}.block_push:BlockPushExpert"
    ),
    "pusht-v0": ImitationTask(f"{_HERE}.push_t:PushT", 300, "human", ("gym-pusht", "pymunk", "shapely")),
    "kitchen-v0": ImitationTask(f"{_HERE}.kitchen:Kitchen", 280, "human", ("gymnasium-robotics", "mujoco")),
}


class Expert(Protocol):
    """A scripted demonstrator, which decides anew for every episode which of several ways it takes."""

    def begin(self, generator: np.random.Generator) -> None:
        """Start an episode, with the choices of its own drawn from `generator`."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The next action, within [-1, 1]."""


def register() -> None:
    """Make the tasks known to gymnasium, as nfkern/NAME. Nothing is imported before one is made."""
    for name, task in TASKS.items():
        if f"{NAMESPACE}/{name}" not in gymnasium.registry:
            gymnasium.register(
                f"{NAMESPACE}/{name}", entry_point=task.entry_point, max_episode_steps=task.max_episode_steps
            )


def names() -> list[str]:
    """The names of all datasets, and of all environments."""
    return [*map(_dataset, TASKS), *TASKS]


def environment_id(name: str) -> str | None:
    """What gymnasium calls the environment of a dataset or environment name; None for names of other tasks."""
    found = _find(name)
    return None if found is None else f"{NAMESPACE}/{found}"


def packages(name: str) -> tuple[str, ...] | None:
    """Those whose version decides what happens in an environment; None for names of other tasks."""
    found = _find(name)
    return None if found is None else TASKS[found].packages


def _find(name: str) -> str | None:
    return next((environment for environment in TASKS if name in (environment, _dataset(environment))), None)


def _dataset(environment: str) -> str:
    stem, _, version = environment.rpartition("-")
    return f"{stem}-{TASKS[environment].demonstrations}-{version}"


def make_expert(environment: str) -> Expert:
    """The demonstrator of one of `TASKS`.

    Raises:
        ValueError: the task has none.
    """
    task = TASKS[environment]
    if task.expert is None:
        raise ValueError(f"environment: {environment} has no scripted demonstrator")
    module, _, name = task.expert.partition(":")
    expert: Expert = getattr(importlib.import_module(module), name)()
    return expert
