"""The settings and the result of an evaluation, as dataclasses with conversions from and to JSON, CSV and npz."""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from nfkern.algorithms.envs.make import SuccessTiming
from nfkern.algorithms.evaluation.rollout import EnvironmentPool, Episode
from nfkern.algorithms.evaluation.statistics import Interval, success_interval, wilson_interval
from nfkern.errors import UserError, reason
from nfkern.host.files import atomic_file, write_text

FORMAT_VERSION = 1


@dataclass(frozen=True, order=True)
class Block:
    """Consecutive episodes of one task: the unit of work, whatever process runs it."""

    task_id: int
    first_episode: int
    episodes: int


@dataclass(frozen=True)
class EvaluationSettings:
    """Everything that an evaluation's outcome depends on; equal settings give equal episodes.

    Attributes:
        env_name: dataset or environment name.
        tasks: task numbers, from 1.
        episodes_per_task: the quota, the same for every task.
        seed: fixes starts, goals and the policy's randomness.
        block_size: episodes that are stepped in lockstep, the size of a decision's batch.
        max_episode_steps: the limit in steps, where it is not the benchmark's own.
        success_timing: "pre" or "post", where it is not the environment's own.
        record: "xy" where trajectories were kept.
        label: names the policy, for instance by its checkpoint's hash.
        versions: of the libraries that the episodes depend on.
    """

    env_name: str
    tasks: tuple[int, ...]
    episodes_per_task: int
    seed: int
    block_size: int
    max_episode_steps: int | None = None
    success_timing: SuccessTiming | None = None
    record: str | None = None
    label: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def pool(self) -> EnvironmentPool:
        """New environments for these episodes."""
        return EnvironmentPool(
            self.env_name, max_episode_steps=self.max_episode_steps, success_timing=self.success_timing
        )

    @property
    def starts(self) -> str:
        """Return the settings that decide starts and goals, as text: equal where episodes can be compared singly."""
        return json.dumps(dataclasses.replace(self, label="", record=None, block_size=1).to_dict(), sort_keys=True)

    def blocks(self) -> list[Block]:
        """The units of work, the same for every number of workers."""
        quota, size = self.episodes_per_task, self.block_size
        return [Block(task, first, min(size, quota - first)) for task in self.tasks for first in range(0, quota, size)]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self), "tasks": list(self.tasks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make an object from what `to_dict` returned.

        Raises:
            ValueError: another format version, or keys that are missing or unknown.
        """
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version: expected {FORMAT_VERSION}, got {version!r}")
        try:
            fields: dict[str, Any] = {**values, "tasks": tuple(values["tasks"])}
            del fields["format_version"]
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"settings: {error!r}") from error


@dataclass(frozen=True)
class Trajectory:
    """An episode's path, for drawing it in the maze.

    Attributes:
        positions: (length + 1, 2) float32, the observations' first two numbers (x, y in metres in a maze).
        goal: (2,) float32, the same of the goal; NaN without one.
    """

    positions: np.ndarray
    goal: np.ndarray


@dataclass(frozen=True)
class TaskSummary:
    """One task's row of the table; the interval is Wilson's."""

    task_id: int
    name: str
    episodes: int
    successes: int
    success_rate: float
    interval: Interval
    mean_return: float
    mean_length: float
    mean_score: float | None
    """The mean share of a task with stages that was done when the episode ended; None without stages."""


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """The episodes of an evaluation, ordered by task and number.

    Attributes:
        settings: what was asked for.
        episodes: `episodes_per_task` for each task.
        task_names: OGBench's, by task number.
        trajectories: by (task_id, episode), where they were recorded; not part of the JSON.
    """

    settings: EvaluationSettings
    episodes: tuple[Episode, ...]
    task_names: dict[int, str]
    trajectories: dict[tuple[int, int], Trajectory] = field(default_factory=dict, compare=False, repr=False)

    @property
    def outcomes(self) -> np.ndarray:
        """Successes (tasks, episodes_per_task) as 0.0 and 1.0."""
        flat = np.array([episode.success for episode in self.episodes], dtype=np.float64)
        return flat.reshape(len(self.settings.tasks), self.settings.episodes_per_task)

    @property
    def has_goals(self) -> bool:
        """Whether the environment has several tasks, or names its only one: else episodes are all that there is."""
        return len(self.task_names) > 1 or any(name != f"task{task}" for task, name in self.task_names.items())

    @property
    def success_rate(self) -> float:
        """Mean over tasks, which all have the same quota."""
        return float(self.outcomes.mean())

    @property
    def score(self) -> float | None:
        """Mean share of a task with stages that was done when the episode ended; None without stages."""
        return _mean_score(self.episodes)

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return of the episodes."""
        return float(np.mean([episode.episode_return for episode in self.episodes]))

    @property
    def interval(self) -> Interval:
        """`success_interval` over tasks; it says nothing about other training seeds."""
        return success_interval(self.outcomes)

    def by_task(self) -> list[TaskSummary]:
        """One summary per task, in the settings' order."""
        return [self._summary(task) for task in self.settings.tasks]

    def _summary(self, task: int) -> TaskSummary:
        episodes = [episode for episode in self.episodes if episode.task_id == task]
        successes = sum(episode.success for episode in episodes)
        return TaskSummary(
            task_id=task,
            name=self.task_names[task],
            episodes=len(episodes),
            successes=successes,
            success_rate=successes / len(episodes),
            interval=wilson_interval(successes, len(episodes)),
            mean_return=float(np.mean([episode.episode_return for episode in episodes])),
            mean_length=float(np.mean([episode.length for episode in episodes])),
            mean_score=_mean_score(episodes),
        )

    def __repr__(self) -> str:
        """Return the table."""
        return self.table(self.settings.label or "policy")

    def table(self, name: str) -> str:
        """Return the success of a policy with a name, for each goal and for all, as text."""
        settings, goals = self.settings, self.has_goals
        each = " per goal" if goals else ""
        lines = [
            f"{name}: {settings.env_name}, {settings.episodes_per_task} episodes{each}, seed {settings.seed}",
            f"{'goal' if goals else '':<28}{'success':>9}{'':>9}{'95% interval':>18}{'steps':>8}{'return':>10}",
        ]
        for row in self.by_task():
            count, label = (
                f"{row.successes}/{row.episodes}",
                f"{row.task_id:>2} {row.name}" if goals else "all episodes",
            )
            lines.append(
                f"{label:<28}{count:>9}{row.success_rate:>9.1%}"
                f"{_range(row.interval):>18}{row.mean_length:>8.0f}{row.mean_return:>10.4g}"
            )
        if goals:
            lines.append(f"{'all':<37}{self.success_rate:>9.1%}{_range(self.interval):>18}")
        if self.score is not None:
            lines.append(f"{'score':<37}{self.score:>9.1%}   (mean share of the task done when an episode ended)")
        if len(settings.tasks) > 1:
            lines.append("For a goal: Wilson. For all: goals resampled; says nothing about other training seeds.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return settings, summary, tasks and every episode as JSON types."""
        return {
            "settings": self.settings.to_dict(),
            "success_rate": self.success_rate,
            "score": self.score,
            "interval": self.interval._asdict(),
            "tasks": [{**dataclasses.asdict(row), "interval": row.interval._asdict()} for row in self.by_task()],
            "episodes": [dataclasses.asdict(episode) for episode in self.episodes],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Make a result from what `to_dict` returned; derived values are computed again.

        Raises:
            ValueError: not an evaluation, or one of another format.
        """
        try:
            names = {int(row["task_id"]): str(row["name"]) for row in values["tasks"]}
            episodes = tuple(Episode(**row) for row in values["episodes"])
            return cls(EvaluationSettings.from_dict(values["settings"]), episodes, names)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an evaluation: {error!r}") from error

    def save(self, path: Path) -> None:
        """Write the JSON, atomically."""
        text = json.dumps(self.to_dict(), indent=1)
        write_text(path, text)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            UserError: no such file, or not an evaluation.
        """
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as an evaluation: {reason(error)}") from error

    def save_csv(self, path: Path) -> None:
        """Write one row per episode, atomically."""
        lines = io.StringIO()
        writer = csv.DictWriter(lines, [column.name for column in dataclasses.fields(Episode)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**dataclasses.asdict(row), "success": int(row.success)} for row in self.episodes)
        write_text(path, lines.getvalue())

    def save_trajectories(self, path: Path) -> None:
        """Write the recorded paths as npz, atomically.

        The arrays: `positions` (sum of lengths + 1, 2), all paths one after the other; `offsets` (episodes + 1,), where
        each begins and ends; `goals` (episodes, 2); `task_ids`, `episodes` and `successes` (episodes,).

        Raises:
            ValueError: none were recorded.
        """
        if not self.trajectories:
            raise ValueError('trajectories: none were recorded; evaluate with record="xy"')
        paths = [self.trajectories[row.task_id, row.episode] for row in self.episodes]
        arrays = {
            "positions": np.concatenate([path.positions for path in paths]),
            "offsets": np.cumsum([0] + [len(path.positions) for path in paths]),
            "goals": np.stack([path.goal for path in paths]),
            "task_ids": np.array([row.task_id for row in self.episodes]),
            "episodes": np.array([row.episode for row in self.episodes]),
            "successes": np.array([row.success for row in self.episodes]),
        }
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def stack_outcomes(results: Sequence[EvaluationResult]) -> np.ndarray:
    """Return the successes of evaluations on the same starts, for `success_interval` and `paired_comparison`.

    Args:
        results: of one algorithm's training seeds, for instance.

    Returns:
        (results, tasks, episodes_per_task) as 0.0 and 1.0.

    Raises:
        ValueError: none, or evaluations that differ in more than the policy.
    """
    if not results:
        raise ValueError("results: expected at least one, got none")
    first, *others = (result.settings.starts for result in results)
    for other in others:
        if other != first:
            raise ValueError(f"results: expected evaluations on the same starts, got {first} and {other}")
    return np.stack([result.outcomes for result in results])


def _mean_score(episodes: Sequence[Episode]) -> float | None:
    scores = [episode.score for episode in episodes if episode.score is not None]
    return float(np.mean(scores)) if scores else None


def _range(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} - {100 * interval.high:.1f}"
