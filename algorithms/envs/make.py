"""Environments whose randomness follows one seed and whose task is pinned: OGBench's, and those for imitation.

`reset(seed=)` alone does not make an OGBench episode reproducible: the mazes draw starts and goals from numpy's global
generator, settling steps are sampled from the action space, and manipulation environments build a new, unseeded action
space at every access. `make_environment` closes these holes, so that an episode is a function of its task, its seed and
the actions alone: not of what ran before it, nor of other environments stepped in the same process.
"""

import contextlib
import copy
import difflib
import functools
import os
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import gymnasium
import numpy as np

from nfkern.algorithms.envs import imitation
from nfkern.errors import UserError
from nfkern.host.interrupts import uninterrupted
from nfkern.host.packages import import_from_here, install_command

SuccessTiming = Literal["pre", "post"]


class UnknownEnvironment(UserError):  # noqa: N818 - as UserError's other kinds
    """A name that neither a dataset's environment nor any registered environment has."""


LOCOMOTION_DATASETS = ("navigate", "stitch", "explore")
MANIPULATION_DATASETS = ("play", "noisy")


@contextlib.contextmanager
def global_random(generator: np.random.BitGenerator) -> Iterator[None]:
    """Let `np.random.*` draw from `generator` inside the block, and from where it drew before after it.

    Exchanging the generator costs 2 us, copying its state 200 us (measured 2026-11). What is lost on the way out is a
    Gaussian that the outer generator had cached, after an odd number of `np.random.normal` draws. Not thread-safe, as
    is everything about numpy's global generator.

    Args:
        generator: drawn from, and advanced, inside the block.
    """
    # Both functions are public, and missing from numpy's type stubs.
    outer = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        np.random.set_bit_generator(outer)  # type: ignore[attr-defined]


class PinnedTask(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """An environment on one task, reproducible from `reset(seed=)`.

    Attributes:
        goal: the current episode's goal observation, float32 of shape (goal_size,); None for tasks without one.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], task_id: int | None = None) -> None:
        """Wrap an environment.

        Args:
            env: an OGBench environment, or any other with a fixed start.
            task_id: one of `tasks`; None for the first.

        Raises:
            ValueError: the environment has no such task.
        """
        super().__init__(env)
        self.goal: np.ndarray | None = None
        self._global_generator: np.random.BitGenerator = np.random.MT19937(0)
        self._task_id = self.tasks[0]
        if task_id is not None:
            self.task_id = task_id

    @property
    def tasks(self) -> tuple[int, ...]:
        """The task numbers, from 1; a single-task environment has only its own."""
        own = getattr(self.unwrapped, "_reward_task_id", None)
        return (int(own),) if own else tuple(range(1, getattr(self.unwrapped, "num_tasks", 1) + 1))

    @property
    def task_names(self) -> dict[int, str]:
        """OGBench's name of each of `tasks`."""
        names = {i: info["task_name"] for i, info in enumerate(getattr(self.unwrapped, "task_infos", []), start=1)}
        return {task: names.get(task, f"task{task}") for task in self.tasks}

    @property
    def task_id(self) -> int:
        """The task of the next reset; assign to change it."""
        return self._task_id

    @task_id.setter
    def task_id(self, value: int) -> None:
        if value not in self.tasks:
            name = self.spec.id if self.spec else str(self.env)
            raise ValueError(f"task_id: {name} has the tasks {', '.join(map(str, self.tasks))}, got {value}")
        self._task_id = value

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode of the pinned task.

        Args:
            seed: fixes the whole episode; None goes on with the sources of randomness as they stand.
            options: further options for the environment; a "task_id" among them must be the pinned one.

        Returns:
            The first observation and OGBench's info; its "goal" is also at `goal`.

        Raises:
            ValueError: `options` ask for another task.
        """
        if options and options.get("task_id", self._task_id) != self._task_id:
            raise ValueError(f"options: the task is pinned to {self._task_id}, got task_id {options['task_id']}")
        if seed is not None:
            global_seed, space_seed, seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(3))
            self._global_generator = np.random.MT19937(global_seed)
            self.unwrapped.action_space.seed(space_seed)
        if hasattr(self.unwrapped, "num_tasks") or hasattr(self.unwrapped, "_reward_task_id"):
            options = {**(options or {}), "task_id": self._task_id}
        with global_random(self._global_generator):
            observation, info = self.env.reset(seed=seed, options=options)
        goal = info.get("goal")
        self.goal = None if goal is None else np.asarray(goal, dtype=np.float32)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step; the flags are Python's bool and the reward a float, whatever the environment returns."""
        # Teleport mazes draw the way out from numpy's global generator while stepping.
        with global_random(self._global_generator):
            observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), bool(terminated), bool(truncated), info


class ChosenObservations(gymnasium.Wrapper[np.ndarray, np.ndarray, dict[str, Any], np.ndarray]):
    """Parts of an environment's Dict observations as one vector; its "desired_goal", if it has one, is info["goal"]."""

    def __init__(self, env: gymnasium.Env[Any, Any], keys: tuple[str, ...], name: str) -> None:
        """Wrap an environment.

        Args:
            env: the environment.
            keys: of the parts, in the order in which they are concatenated.
            name: of the environment, for messages.

        Raises:
            UserError: the observations are no Dict of Boxes with these keys, or no keys are given.
        """
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Dict):
            raise UserError(f"{name}: observations are no Dict but {space}: leave out [{','.join(keys)}]")
        boxes = {key: part for key, part in space.items() if isinstance(part, gymnasium.spaces.Box)}
        if not keys or not set(keys) <= set(boxes):
            example = "observation,desired_goal" if {"observation", "desired_goal"} <= set(boxes) else ",".join(boxes)
            there = ", ".join(f"{key} {part.shape}" for key, part in boxes.items())
            raise UserError(
                f"{name}: observations are a Dict of {there}: name those that the data have, in the data's order, "
                f"as in {name}[{example}]" + (f"; got {','.join(keys)}" if keys else "")
            )
        self._keys = keys
        low, high = (
            np.concatenate([np.ravel(getattr(boxes[key], side)) for key in keys]).astype(np.float32)
            for side in ("low", "high")
        )
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        if "desired_goal" in observation:
            info = {"goal": observation["desired_goal"]} | info
        return self._chosen(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Take one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._chosen(observation), reward, terminated, truncated, info

    def _chosen(self, observation: Any) -> np.ndarray:
        return np.concatenate([np.ravel(observation[key]) for key in self._keys]).astype(np.float32)


def make_environment(
    name: str,
    *,
    task_id: int | None = None,
    max_episode_steps: int | None = None,
    success_timing: SuccessTiming | None = None,
) -> PinnedTask:
    """Make the environment of an OGBench dataset or environment name.

    Args:
        name: a dataset ("pointmaze-medium-navigate-v0", "cube-single-play-singletask-task2-v0", "pusht-human-v0") or an
            environment ("pointmaze-medium-v0", "pusht-v0", or any other id that gymnasium knows, as MODULE:ID where
            importing a module, of the current folder, too, registers it, and as ID[KEY,KEY] where observations are a
            Dict of which these are taken).
        task_id: the task to pin, from 1; None for the first, or a single-task environment's own.
        max_episode_steps: ends episodes early, in steps; None for the benchmark's own limit.
        success_timing: whether OGBench judges success before or after the action; None for its own choice, which
            version 1.2 changed to "pre" for single tasks: results published before it have "post".

    Returns:
        The environment; the first reset should be given a seed.

    Raises:
        UnknownEnvironment: no environment has that name.
        UserError: a package is missing, or the environment cannot be made.
        ValueError: the environment has no such task.
    """
    stem, keys = _named_keys(name)
    environment, options = _resolve(stem)
    if success_timing is not None:
        options["success_timing"] = success_timing
    spec = copy.deepcopy(gymnasium.spec(environment))
    # The simulator is imported here.
    with uninterrupted(), warnings.catch_warnings(), global_random(np.random.MT19937(0)):
        # dm_control, imported now for manipulation, looks for a screen; nothing is drawn on one.
        warnings.filterwarnings("ignore", message=".*DISPLAY environment variable is missing")
        try:
            spec.entry_point = _seedable(spec.entry_point)
        except ModuleNotFoundError as error:
            raise UserError(f"{name} needs {error.name}: {install_command(error.name or '')}") from error
        # The checker would warn about manipulation's float64 bounds and numpy booleans, which PinnedTask mends.
        try:
            env = gymnasium.make(spec, max_episode_steps=max_episode_steps, disable_env_checker=True, **options)
        except Exception as error:  # an environment's own code may fail in any way
            reason = str(error) if isinstance(error, (ImportError, gymnasium.error.Error)) else repr(error)
            raise UserError(f"{name} cannot be made: {reason}") from error
    _discard_model_file(env)
    if keys or isinstance(env.observation_space, gymnasium.spaces.Dict):
        env = ChosenObservations(env, keys, stem)
    return PinnedTask(env, task_id)


def environment_id(name: str) -> str:
    """The gymnasium id that an OGBench dataset is evaluated in; environment ids are returned as they are.

    Raises:
        UnknownEnvironment: no environment has that name.
        UserError: a package is missing.
    """
    return _resolve(name)[0]


def _resolve(name: str) -> tuple[str, dict[str, Any]]:
    """The gymnasium id of a dataset or environment name, and the options that the name implies."""
    name, _ = _named_keys(name)
    if (found := imitation.environment_id(name)) is not None:
        return found, {}
    module, _, registered = name.rpartition(":")
    if module:
        try:
            import_from_here(module)
        except ImportError as error:
            raise UserError(f"{name}: the module {module} cannot be imported: {error}") from error
    if registered in gymnasium.registry:
        return registered, {}
    if module:
        close = similar_names(registered)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UnknownEnvironment(f"{name}: importing {module} registers no environment {registered!r}{hint}")
    try:
        with uninterrupted():
            import ogbench  # noqa: F401 (registers its environments)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} needs {error.name}: {install_command(error.name or '')}") from error
    if name in gymnasium.registry:
        return name, {}
    words = name.split("-")
    options: dict[str, Any] = {}
    if "oraclerep" in words:
        words.remove("oraclerep")
        options = {"use_oracle_rep": True}
    # The dataset's type stands before the version, or before "singletask".
    position = (words.index("singletask") if "singletask" in words else len(words) - 1) - 1
    environment = "-".join(words[: max(position, 0)] + words[position + 1 :])
    if environment in gymnasium.registry and words[position] in _dataset_types(environment):
        return environment, options
    close = similar_names(name)
    example = "expected a name such as pointmaze-medium-navigate-v0 or pusht-human-v0"
    hint = f"did you mean {' or '.join(close)}?" if close else example
    raise UnknownEnvironment(f"unknown dataset or environment {name!r}: {hint}")


def _named_keys(name: str) -> tuple[str, tuple[str, ...]]:
    """A name without the keys in brackets behind it, and these."""
    stem, bracket, rest = name.partition("[")
    if not bracket:
        return name, ()
    return stem, tuple(key.strip() for key in rest.removesuffix("]").split(",") if key.strip())


def similar_names(name: str) -> list[str]:
    """Up to three names of datasets and environments that look like another name, the most similar first."""
    ogbench = [key for key, spec in gymnasium.registry.items() if str(spec.entry_point).startswith("ogbench.")]
    datasets = [_dataset_name(key, kind) for key in ogbench for kind in _dataset_types(key)]
    return difflib.get_close_matches(name, dict.fromkeys([*gymnasium.registry, *datasets, *imitation.names()]), n=3)


def _dataset_types(environment: str) -> tuple[str, ...]:
    """The kinds of data that OGBench publishes for an environment's family."""
    return LOCOMOTION_DATASETS if "maze" in environment or "soccer" in environment else MANIPULATION_DATASETS


def _dataset_name(environment: str, kind: str) -> str:
    """Put the dataset's type back where the published names have it."""
    mark = "-singletask" if "-singletask" in environment else "-v0"
    head, _, tail = environment.partition(mark)
    return f"{head}-{kind}{mark}{tail}"


def _seedable(entry_point: Any) -> Any:
    """The environment's class, given one lasting action space if it makes a new one at every access."""
    cls = gymnasium.envs.registration.load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    inherited = getattr(cls, "action_space", None)
    lasting = getattr(gymnasium.Wrapper, "action_space", None)
    if not isinstance(inherited, property) or inherited.fget is None or inherited is lasting:
        return entry_point
    make_space = inherited.fget

    class Seedable(cls):  # type: ignore[misc, valid-type]
        @functools.cached_property
        def action_space(self) -> gymnasium.Space[Any]:
            with warnings.catch_warnings():
                # The bounds are given in float64 and kept in float32, both exactly.
                warnings.filterwarnings("ignore", message=".*precision lowered", category=UserWarning)
                space: gymnasium.Space[Any] = make_space(self)
            return space

    return Seedable


def _discard_model_file(env: gymnasium.Env[Any, Any]) -> None:
    """Delete the XML that a maze wrote for its model, and close the descriptor that it leaves open for every one."""
    path = getattr(env.unwrapped, "fullpath", "")
    if os.path.dirname(path) != tempfile.gettempdir() or not os.path.exists("/dev/fd"):
        return
    written = os.stat(path)
    for descriptor in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), written):
                os.close(descriptor)
    os.unlink(path)
