"""The results of a sweep: a table over training seeds, beside the published numbers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfkern.algorithms.evaluation.result import EvaluationResult, TaskSummary, stack_outcomes
from nfkern.algorithms.evaluation.statistics import Interval, cluster_interval, interquartile_mean, success_interval
from nfkern.algorithms.published import CONDITIONAL, DEFAULT_TASKS, IMITATION, OFFLINE_RL, UNSUPERVISED
from nfkern.algorithms.runs.run import Run
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
    """Return a row for each label and task, in the order of the spec.

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
    finished = [Run(folder / run.name) for run in members if states.get(run.name) == "finished"]
    failed = sum(states.get(run.name) == "failed" for run in members)
    stored = [path for run in finished if (path := _last_evaluation(run)) is not None]
    if stored:
        results = [EvaluationResult.load(path) for path in stored]
        scores = [np.array([_number_of(task) for task in result.by_task()]) for result in results]
        alike = len({result.settings.starts for result in results}) == 1 and results[0].score is None
        interval = success_interval(stack_outcomes(results)) if alike else _over_seeds(scores)
    else:
        scores = [score for run in finished if (score := _last_row(run)) is not None]
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
    """Return the number that published tables have: the score of a task with stages, else success."""
    return task.success_rate if task.mean_score is None else task.mean_score


def _last_evaluation(run: Run) -> Path | None:
    """Return the evaluation that the training itself made last: the one that eval.csv ends with."""
    rows = run.rows("eval.csv")
    if not rows:
        return None
    row, step = rows[-1], int(rows[-1]["step"])
    if "evaluation/seed" not in row:
        # A run from before eval.csv had it: another evaluation with a higher seed may have been asked for since.
        return next(iter(run.evaluations.files(step)), None)
    asked = {name: int(row[f"evaluation/{name}"]) for name in ("seed", "episodes_per_task")}
    found = run.evaluations.find(step, **asked, max_episode_steps=None)
    return None if found is None else found[0]


def _last_row(run: Run) -> np.ndarray | None:
    """Return the success that eval.csv ends with, for runs that store no episodes; None without one."""
    rows = run.rows("eval.csv")
    return np.array([float(rows[-1]["evaluation/success"])]) if rows else None


def _over_seeds(scores: list[np.ndarray]) -> Interval:
    """Return the interval from the seeds alone, where episodes are not stored or were not the same."""
    if len(scores) < 2:
        return Interval(NONE, NONE)
    return cluster_interval(np.array([tasks.mean() for tasks in scores])[:, None, None])


def _published(algorithm: str, env_name: str) -> tuple[float | None, bool]:
    """Return the paper's number where the run has the paper's algorithm, and whether it is of this very task."""
    data = env_name.removesuffix("-v0")
    base, marked, task = data.partition("-singletask")
    if algorithm == "nf_rlbc" and marked and base in OFFLINE_RL:
        scores, number = OFFLINE_RL[base], int(task.removeprefix("-task") or DEFAULT_TASKS.get(base, 1))
        return (scores.by_task[number - 1], True) if scores.by_task else (scores.ours, False)
    demonstrated = {f"{name}-human": scores for name, scores in IMITATION.items()}
    table = {"nf_gcbc": CONDITIONAL, "nf_ugs": UNSUPERVISED, "nf_bc": demonstrated}.get(algorithm, {})
    return (table[data].ours, True) if data in table else (None, True)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the rows as lines of text."""
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
