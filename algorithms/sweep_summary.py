"""What the runs of a sweep came to: a table over training seeds, beside the published numbers."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfkern.algorithms.evaluation_result import EvaluationResult, stack_outcomes
from nfkern.algorithms.published import CONDITIONAL, OFFLINE_RL, UNSUPERVISED
from nfkern.algorithms.statistics import Interval, cluster_interval, interquartile_mean, success_interval
from nfkern.algorithms.sweep_spec import SweepRun


@dataclass(frozen=True)
class Row:
    """The runs of one label on one task; scores in per cent.

    Attributes:
        label, env_name: what they have in common.
        seeds: how many runs are finished.
        failed: how many ended with an error.
        mean, std: over training seeds; std is nan for a single one.
        iqm: the interquartile mean over seeds and the environment's tasks.
        low, high: 95 % interval of the mean, for other seeds and, where there are several, other tasks of the kind.
        published: the paper's number for its algorithm there, if any.
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
    finished = [run for run in members if states.get(run.name) == "finished"]
    scores = [tasks for run in finished if (tasks := _scores(folder / run.name)) is not None]
    failed = sum(states.get(run.name) == "failed" for run in members)
    published = _published(members[0].arguments[0], env_name)
    if not scores:
        none = float("nan")
        return Row(label, env_name, 0, failed, none, none, none, none, none, published)
    means = np.array([tasks.mean() for tasks in scores])
    interval = _interval([folder / run.name for run in finished], means)
    return Row(
        label,
        env_name,
        seeds=len(scores),
        failed=failed,
        mean=100 * float(means.mean()),
        std=100 * float(means.std(ddof=1)) if len(means) > 1 else float("nan"),
        iqm=100 * interquartile_mean(np.concatenate(scores)),
        low=100 * interval.low,
        high=100 * interval.high,
        published=published,
    )


def _scores(run_dir: Path) -> np.ndarray | None:
    """The success on each task of the last evaluation; None without one."""
    path = run_dir / "eval.csv"
    if not path.exists():
        return None
    with open(path, newline="") as file:
        last = list(csv.DictReader(file))[-1]
    tasks = [float(value) for key, value in last.items() if key.startswith("evaluation/success_task")]
    return np.array(tasks or [float(last["evaluation/success"])])


def _interval(run_dirs: list[Path], means: np.ndarray) -> Interval:
    """By the evaluations' episodes where they are stored, else by the seeds alone."""
    stored = [sorted((path / "evaluations").glob("*.json")) for path in run_dirs]
    if all(stored):
        return success_interval(stack_outcomes([EvaluationResult.load(found[-1]) for found in stored]))
    if len(means) > 1:
        return cluster_interval(means[:, None, None])
    return Interval(float("nan"), float("nan"))


def _published(algorithm: str, env_name: str) -> float | None:
    """The paper's number, if the run is of the paper's algorithm in one of its environments."""
    data = env_name.removesuffix("-v0")
    base, _, task = data.partition("-singletask")
    if algorithm == "nf_rlbc" and base in OFFLINE_RL:
        scores, number = OFFLINE_RL[base], task.removeprefix("-task")
        return scores.by_task[int(number) - 1] if scores.by_task and number else scores.ours
    tables = {"nf_gcbc": CONDITIONAL, "nf_ugs": UNSUPERVISED}
    scores_by_name = tables.get(algorithm, {})
    return scores_by_name[data].ours if data in scores_by_name else None


def table(rows: Iterable[Row]) -> Iterator[str]:
    """The rows as lines of text."""
    yield f"{'label':<22} {'task':<46} {'seeds':>5} {'mean':>6} {'std':>5} {'IQM':>6} {'95% interval':>14} {'paper':>6}"
    for row in rows:
        yield (
            f"{row.label:<22} {row.env_name:<46} {row.seeds:>5} {_number(row.mean):>6} {_number(row.std):>5} "
            f"{_number(row.iqm):>6} {f'{_number(row.low)} - {_number(row.high)}':>14} {_number(row.published):>6}"
            + (f"  {row.failed} failed" if row.failed else "")
        )
    yield "success in per cent; mean, std over training seeds; IQM over seeds and the environment's tasks"


def _number(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.1f}"
