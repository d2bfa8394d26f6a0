"""`nfkern tasks`: the paper's 82 tasks, how each is trained here, and what was published."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nfkern.algorithms.agents.registry import AGENTS, find_preset
from nfkern.algorithms.published import CONDITIONAL, IMITATION, OFFLINE_RL, UNSUPERVISED, Published

Setting = Literal["imitation", "conditional", "offline-rl", "unsupervised"]
NUMBERS = range(1, 6)


@dataclass(frozen=True)
class Task:
    """One of the 82 tasks.

    Attributes:
        name: unique name.
        setting: part of the paper's experiments.
        algorithm: the paper's algorithm for it.
        environment: a name for `nfkern train --env-name`, or None if the package lacks the environment.
        goal: number of the goal within a goal-conditioned environment, from 1.
        command: command that trains the algorithm with the paper's settings.
        published: the algorithm's score in per cent.
        published_alone: whether that score is for this task alone, rather than the mean over its environment's tasks.
        rivals: published scores of other algorithms, means over the environment's tasks.
        rival_commands: commands for the rivals that the package has, with the settings of the scores' source.
        source: of all scores.
    """

    name: str
    setting: Setting
    algorithm: str
    environment: str | None
    goal: int | None
    command: str
    published: float
    published_alone: bool
    rivals: dict[str, float]
    rival_commands: dict[str, str]
    source: str


def tasks() -> list[Task]:
    """Return all 82 tasks, setting by setting."""
    found = []
    for name, scores in IMITATION.items():
        environment = find_preset("nf_bc", name).env_name
        command = f"nfkern train nf_bc --preset {name}" + ("" if environment else " --env-name DATA.npz")
        where: dict[str, Any] = {"environment": environment, "command": command, "alone": scores.ours}
        found.append(_task(name, "imitation", "nf_bc", scores, **where))
    for data, scores in CONDITIONAL.items():
        for goal in NUMBERS:
            where = {
                "environment": f"{data}-v0",
                "goal": goal,
                "command": f"nfkern train nf_gcbc --preset {data}",
                "rival_commands": _rival_commands(scores, data)
                | {"GCBC": f"nfkern train gaussian_gcbc --preset ogbench --env-name {data}-v0"},
            }
            found.append(_task(f"{data}-goal{goal}", "conditional", "nf_gcbc", scores, **where))
    for data, scores in OFFLINE_RL.items():
        for number in NUMBERS:
            environment = f"{data}-singletask-task{number}-v0"
            alone = scores.by_task[number - 1] if scores.by_task else None
            command = f"nfkern train nf_rlbc --preset {data} --env-name {environment}"
            where = {"environment": environment, "command": command, "alone": alone}
            where["rival_commands"] = _rival_commands(scores, data, f" --env-name {environment}")
            found.append(_task(f"{data}-task{number}", "offline-rl", "nf_rlbc", scores, **where))
    for name, scores in UNSUPERVISED.items():
        where = {"environment": name, "command": f"nfkern train nf_ugs --preset {name}", "alone": scores.ours}
        kinds = {"CRL min-max": "min_max", "CRL uniform": "uniform"}
        where["rival_commands"] = {rival: f"nfkern train crl --preset {name}-{kind}" for rival, kind in kinds.items()}
        found.append(_task(name, "unsupervised", "nf_ugs", scores, **where))
    return found


def _rival_commands(scores: Published, data: str, options: str = "") -> dict[str, str]:
    """Return commands for the rivals that the package has: agents of that name with a preset for the dataset."""
    agents = {name.removeprefix("offline_"): name for name, agent in AGENTS.items() if data in agent.presets}
    own = {rival: agents[rival.lower()] for rival in scores.rivals if rival.lower() in agents}
    return {rival: f"nfkern train {name} --preset {data}{options}" for rival, name in own.items()}


def _task(
    name: str,
    setting: Setting,
    algorithm: str,
    scores: Published,
    *,
    command: str,
    environment: str | None = None,
    goal: int | None = None,
    alone: float | None = None,
    rival_commands: dict[str, str] | None = None,
) -> Task:
    return Task(
        name=name,
        setting=setting,
        algorithm=algorithm,
        published=scores.ours if alone is None else alone,
        published_alone=alone is not None,
        rivals=scores.rivals,
        rival_commands=rival_commands or {},
        source=scores.source,
        command=command,
        environment=environment,
        goal=goal,
    )


@dataclass(frozen=True)
class Tasks:
    """List the paper's 82 tasks: how each is trained, and the published scores (per cent)."""

    setting: Setting | None = None
    """List only the tasks of one setting."""
    json: bool = False
    """Print JSON, one array of objects."""

    def run(self) -> int:
        """Print the tasks; return 0."""
        chosen = [task for task in tasks() if self.setting in (None, task.setting)]
        if self.json:
            json.dump([asdict(task) for task in chosen], sys.stdout, indent=1)
            print()
            return 0
        print("\n".join(_table(chosen)))
        return 0


def _table(chosen: list[Task]) -> Iterator[str]:
    yield f"{'task':<36} {'algorithm':<9} {'published':>9}  best rival"
    setting = ""
    for task in chosen:
        if task.setting != setting:
            setting = task.setting
            yield f"\n{setting}"
        rival, score = max(task.rivals.items(), key=lambda item: item[1])
        mark = " " if task.published_alone else "*"
        yield f"  {task.name:<34} {task.algorithm:<9} {task.published:>8.1f}{mark}  {rival} {score:g}"
    yield "\n* and all rivals' scores: means over the tasks of the environment. Commands and sources: --json"
