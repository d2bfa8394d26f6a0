"""What the runs of a sweep came to: a table over training seeds, beside the published numbers."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfkern.algorithms.evaluation.result import EvaluationResult, TaskSummary, stack_outcomes
from nfkern.algorithms.evaluation.statistics import Interval, cluster_interval, interquartile_mean, success_interval
from nfkern.algorithms.published import CONDITIONAL, DEFAULT_TASKS, IMITATION, OFFLINE_RL, UNSUPERVISED
from nfkern.algorithms.runs.evaluations import evaluation_files, find_evaluation
from nfkern.algorithms.sweep.spec import SweepRun

NONE = float("nan")


@dataclass(frozen=True)
class Row:
    """The runs of one label on one task; scores in per cent.

    Attributes:
        label, env_name: what they have in common.
        seeds: how many runs are finished, with an evaluation.
        failed: how many ended with an error.
        mean, std: over training seeds; std is nan for a single one.
        iqm: the interquartile mean over seeds and the environment's tasks.
        low, high: 95 % interval of the mean, for other seeds and, where there are several, other tasks of the kind.
        published: the paper's number for its algorithm there, if any.
        published_alone: whether that is of this very task; else it is the mean over its environment's.
    """

    label: str
    env_name: str
    seeds: int
    failed: int
    mean: float
    std: float
    iqm: float
    low: float
    high: float
    published: float | None
    published_alone: bool


def summarize(runs: Iterable[SweepRun], folder: Path, states: Mapping[str, str]) -> list[Row]:
    """A row for each label and task, in the order of the spec.

    Args:
        runs: of the sweep.
        folder: the sweep's.
        states: of each run by name: "finished", "failed" or another.
    """
    groups: dict[tuple[str, str], list[SweepRun]] = {}
    for run in runs:
        groups.setdefault((run.label, run.env_name), []).append(run)
    return [_row(label, env_name, members, folder, states) for (label, env_name), members in groups.items()]


def _row(label: str, env_name: str, members: list[SweepRun], folder: Path, states: Mapping[str, str]) -> Row:
    finished = [folder / run.name for run in members if states.get(run.name) == "finished"]
    failed = sum(states.get(run.name) == "failed" for run in members)
    stored = [path for run_dir in finished if (path := _last_evaluation(run_dir)) is not None]
    if stored:
        results = [EvaluationResult.load(path) for path in stored]
        scores = [np.array([_number_of(task) for task in result.by_task()]) for result in results]
        alike = len({result.settings.starts for result in results}) == 1 and results[0].score is None
        interval = success_interval(stack_outcomes(results)) if alike else _over_seeds(scores)
    else:
        scores = [score for run_dir in finished if (score := _last_row(run_dir)) is not None]
        interval = _over_seeds(scores)
    means = np.array([tasks.mean() for tasks in scores])
    published, alone = _published(members[0].arguments[0], env_name)
    return Row(
        label,
        env_name,
        seeds=len(scores),
        failed=failed,
        mean=100 * float(means.mean()) if scores else NONE,
        std=100 * float(means.std(ddof=1)) if len(scores) > 1 else NONE,
        iqm=100 * interquartile_mean(np.concatenate(scores)) if scores else NONE,
        low=100 * interval.low,
        high=100 * interval.high,
        published=published,
        published_alone=alone,
    )


def _number_of(task: TaskSummary) -> float:
    """What the published tables count: the score of a task with stages, else success."""
    return task.success_rate if task.mean_score is None else task.mean_score


def _last_evaluation(run_dir: Path) -> Path | None:
    """The evaluation that the training itself made last: the one that eval.csv ends with."""
    rows = _rows(run_dir)
    if not rows:
        return None
    row, step = rows[-1], int(rows[-1]["step"])
    if "evaluation/seed" not in row:
        # Of a run from before eval.csv had it: another with a higher seed may have been asked for since.
        return next(iter(evaluation_files(run_dir, step)), None)
    asked = {name: int(row[f"evaluation/{name}"]) for name in ("seed", "episodes_per_task")}
    found = find_evaluation(run_dir, step, **asked, max_episode_steps=None)
    return None if found is None else found[0]


def _last_row(run_dir: Path) -> np.ndarray | None:
    """The success that eval.csv ends with, for runs that store no episodes; None without one."""
    rows = _rows(run_dir)
    return np.array([float(rows[-1]["evaluation/success"])]) if rows else None


def _rows(run_dir: Path) -> list[dict[str, str]]:
    path = run_dir / "eval.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _over_seeds(scores: list[np.ndarray]) -> Interval:
    """By the seeds alone, where episodes are not stored or were not the same."""
    if len(scores) < 2:
        return Interval(NONE, NONE)
    return cluster_interval(np.array([tasks.mean() for tasks in scores])[:, None, None])


def _published(algorithm: str, env_name: str) -> tuple[float | None, bool]:
    """The paper's number where the run is of the paper's algorithm, and whether it is of that very task."""
    data = env_name.removesuffix("-v0")
    base, marked, task = data.partition("-singletask")
    if algorithm == "nf_rlbc" and marked and base in OFFLINE_RL:
        scores, number = OFFLINE_RL[base], int(task.removeprefix("-task") or DEFAULT_TASKS.get(base, 1))
        return (scores.by_task[number - 1], True) if scores.by_task else (scores.ours, False)
    demonstrated = {f"{name}-human": scores for name, scores in IMITATION.items()}
    table = {"nf_gcbc": CONDITIONAL, "nf_ugs": UNSUPERVISED, "nf_bc": demonstrated}.get(algorithm, {})
    return (table[data].ours, True) if data in table else (None, True)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows as lines of text."""
    yield f"{'label':<22} {'task':<46} {'seeds':>5} {'mean':>6} {'std':>5} {'IQM':>6} {'95% interval':>14} {'paper':>6}"
    for row in rows:
        mark = " " if row.published_alone else "*"
        yield (
            f"{row.label:<22} {row.env_name:<46} {row.seeds:>5} {_number(row.mean):>6} {_number(row.std):>5} "
            f"{_number(row.iqm):>6} {f'{_number(row.low)} - {_number(row.high)}':>14} {_number(row.published):>6}{mark}"
            + (f"  {row.failed} failed" if row.failed else "")
        )
    yield "success in per cent, of tasks with stages the share done"
    yield "mean, std over training seeds; IQM over seeds and the environment's tasks"
    if not all(row.published_alone for row in rows):
        yield "* the paper's mean over the environment's tasks"


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.1f}"
