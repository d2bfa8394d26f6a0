"""The logs of a run: CSV files always, TensorBoard where it is installed, Weights & Biases on request."""

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import CommonSettings
from nfkern.host.files import atomic_file

if TYPE_CHECKING:
    from nfkern.algorithms.evaluation.result import EvaluationResult


class MetricLog:
    """The logs of one run: train.csv, eval.csv, tensorboard/.

    Attributes:
        run: the run.
    """

    def __init__(self, run: Run, resume_step: int, settings: CommonSettings) -> None:
        """Open the logs and drop what lies beyond the step resumed from."""
        self.run = run
        # Tracking comes first because it may fail: no network, no account.
        self._wandb = _wandb(run, settings) if settings.track else None
        self._csv = CsvLog(run.path / "train.csv", resume_step)
        self._tensorboard = _tensorboard(run.path / "tensorboard", resume_step)
        self._settings = settings
        self._write_evaluations()

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._csv.append({"step": step} | dict(metrics))
        self._elsewhere(step, metrics)

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics that have a file of their own to TensorBoard and Weights & Biases."""
        self._elsewhere(step, metrics)

    def evaluation(self, step: int) -> None:
        """Log the evaluation of a step, once its file is written."""
        rows = self._write_evaluations()
        row = next(row for row in rows if row["step"] == step)
        self._elsewhere(step, {name: value for name, value in row.items() if name != "step"})

    def _write_evaluations(self) -> list[dict[str, Any]]:
        """Write eval.csv anew from the evaluations' files, one row for each step; return the rows."""
        rows = [_evaluation_row(path, result) for path, result in self._own_evaluations()]
        if rows:
            fields = dict.fromkeys(name for row in rows for name in row)
            write_rows(self.run.path / "eval.csv", rows, list(fields))
        return rows

    def _own_evaluations(self) -> "list[tuple[Path, EvaluationResult]]":
        """Return each step's evaluation with the settings of training; of other numbers of episodes, the largest."""
        if not (self.run.path / "evaluations").is_dir():
            return []
        # Only now, for training without evaluations needs no simulator.
        from nfkern.algorithms.evaluation.result import EvaluationResult

        settings = self._settings
        best: dict[int, tuple[tuple[bool, int], Path, EvaluationResult]] = {}
        for path in self.run.evaluations.files():
            result = EvaluationResult.load(path)
            found, step = result.settings, int(path.name.split("-")[0])
            if found.seed != settings.eval_seed or found.max_episode_steps is not None:
                continue
            rank = (found.episodes_per_task == settings.eval_episodes, found.episodes_per_task)
            if step not in best or rank > best[step][0]:
                best[step] = (rank, path, result)
        return [best[step][1:] for step in sorted(best)]

    def close(self) -> None:
        """Flush everything."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _elsewhere(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._tensorboard is not None:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)


class CsvLog:
    """A CSV file with a `step` column; rows beyond the step resumed from are dropped.

    Attributes:
        last_step: of the newest row, 0 without one.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        """Open the log, keeping the whole rows up to `resume_step`."""
        self.path = path
        self.fields: list[str] = []
        self.last_step = 0
        if not path.exists():
            return
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            # A killed process may have left half a row, which lacks columns.
            self.fields = list(reader.fieldnames or [])
            rows = [row for row in reader if None not in row.values() and int(row["step"]) <= resume_step]
        if self.fields:
            write_rows(path, rows, self.fields)
            self.last_step = max((int(row["step"]) for row in rows), default=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; the first row's keys are the columns, to which later rows may add some."""
        new = not self.fields
        self.last_step = int(row["step"])
        if added := [name for name in row if name not in self.fields]:
            self.fields += added
            if not new:
                # Such as the validation of a run that is continued beside a new file for it.
                with open(self.path, newline="") as file:
                    earlier = list(csv.DictReader(file))
                write_rows(self.path, earlier, self.fields)
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, self.fields)
            if new:
                writer.writeheader()
            writer.writerow(row)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], fields: list[str]) -> None:
    """Write a CSV file in one step."""
    with atomic_file(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)


def _evaluation_row(path: Path, result: "EvaluationResult") -> dict[str, Any]:
    row: dict[str, Any] = {"step": int(path.stem.split("-")[0]), "evaluation/success": result.success_rate}
    if result.score is not None:
        row["evaluation/score"] = result.score
    row["evaluation/return"] = result.mean_return
    row |= {f"evaluation/success_task{task.task_id}": task.success_rate for task in result.by_task()}
    return row | {
        "evaluation/seed": result.settings.seed,
        "evaluation/episodes_per_task": result.settings.episodes_per_task,
    }


def _tensorboard(folder: Path, resume_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)


def _wandb(run: Run, settings: CommonSettings) -> Any:
    import wandb

    name = f"{run.algorithm} {run.env_name} seed {run.seed}"
    # The same id whenever the run is resumed.
    run_id = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:16]
    return wandb.init(
        project=settings.wandb_project, name=name, id=run_id, config=run.header, dir=str(run.path), resume="allow"
    )
