"""Tasks for imitation from demonstrations: which there are, and who can demonstrate them.

An environment reports in `info["success"]` whether its task is done and, where a task has stages, in `info["score"]`
which share of them is (0 to 1), as the published tables count.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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
        arguments: of both classes.
    """

    entry_point: str
    max_episode_steps: int
    demonstrations: str
    packages: tuple[str, ...]
    expert: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)


_HERE = "nfkern.algorithms.envs.imitation"
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


METAWORLD = "metaworld-"


class Expert(Protocol):
    """A scripted demonstrator, which decides anew for every episode which of several ways it takes."""

    def begin(self, generator: np.random.Generator) -> None:
        """Start an episode, with the choices of its own drawn from `generator`."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The next action, within [-1, 1]."""


def find(name: str) -> str | None:
    """The environment of a dataset or environment name; None for names of other tasks."""
    stem, _, version = name.rpartition("-")
    body, _, kind = stem.rpartition("-")
    for environment, is_data in ((name, False), (f"{body}-{version}", True)):
        task = task_of(environment)
        if task is not None and (kind == task.demonstrations if is_data else kind != task.demonstrations):
            return environment
    return None


def task_of(environment: str) -> ImitationTask | None:
    """One of `TASKS`, or of Meta-World's: metaworld-NAME-v0."""
    if environment.startswith(METAWORLD) and environment.endswith("-v0"):
        name = {"task": environment.removeprefix(METAWORLD).removesuffix("-v0")}
        where = f"{_HERE}.meta_world"
        versions = ("metaworld", "mujoco")
        return ImitationTask(
            f"{where}:MetaWorld", 500, "scripted", versions, f"{where}:MetaWorldExpert", arguments=name
        )
    return TASKS.get(environment)


def names() -> list[str]:
    """The names of all datasets, and of all environments; without Meta-World's fifty."""
    datasets = []
    for environment, task in TASKS.items():
        stem, _, version = environment.rpartition("-")
        datasets.append(f"{stem}-{task.demonstrations}-{version}")
    return [*datasets, *TASKS]


def environment_id(name: str) -> str | None:
    """Return gymnasium's id of a task's environment, registered on the way; None for names of other tasks.

    Nothing is imported before one is made.
    """
    # Names are looked up where datasets are loaded, too, which needs no simulator.
    import gymnasium

    environment = find(name)
    if environment is None:
        return None
    task, found = task_of(environment), f"{NAMESPACE}/{environment}"
    assert task is not None
    if found not in gymnasium.registry:
        gymnasium.register(
            found, entry_point=task.entry_point, max_episode_steps=task.max_episode_steps, kwargs={**task.arguments}
        )
    return found


def packages(name: str) -> tuple[str, ...] | None:
    """Those whose version decides what happens in an environment; None for names of other tasks."""
    environment = find(name)
    task = None if environment is None else task_of(environment)
    return None if task is None else task.packages


def make_expert(environment: str) -> Expert:
    """The demonstrator of an environment.

    Raises:
        ValueError: there is no such environment, or it has none.
    """
    task = task_of(environment)
    if task is None or task.expert is None:
        raise ValueError(f"environment: {environment} has no scripted demonstrator")
    module, _, name = task.expert.partition(":")
    expert: Expert = getattr(importlib.import_module(module), name)(**task.arguments)
    return expert
