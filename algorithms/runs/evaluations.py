"""The evaluations of a run: a file for each step and settings, so that none takes the place of another."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfkern.algorithms.evaluation import evaluate as evaluation
from nfkern.algorithms.evaluation.result import EvaluationResult, EvaluationSettings


@dataclass(frozen=True)
class Evaluations:
    """A run's folder evaluations/, which need not exist yet."""

    folder: Path

    def path(self, step: int, settings: EvaluationSettings) -> Path:
        """Return evaluations/STEP-SEED-DIGEST.json; the digest is of all settings but whether paths are recorded."""
        text = json.dumps(dataclasses.replace(settings, record=None).to_dict(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return self.folder / f"{step:08d}-{settings.seed}-{digest}.json"

    def files(self, step: int | None = None) -> list[Path]:
        """Return the files of one step or of all."""
        pattern = "*-*.json" if step is None else f"{step:08d}-*.json"
        return [path for path in sorted(self.folder.glob(pattern)) if path.name.split("-")[0].isdigit()]

    def find(self, step: int, **wanted: Any) -> tuple[Path, EvaluationResult] | None:
        """Return the newest evaluation of a step whose settings have the wanted values, and its file."""
        files = sorted(self.files(step), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in files:
            result = EvaluationResult.load(path)
            if all(getattr(result.settings, name) == value for name, value in wanted.items()):
                return path, result
        return None

    def find_same(self, step: int, settings: EvaluationSettings) -> tuple[Path, EvaluationResult] | None:
        """Return a stored evaluation with these settings, whatever its file is called, with paths or without."""
        names = (field.name for field in dataclasses.fields(settings) if field.name != "record")
        return self.find(step, **{name: getattr(settings, name) for name in names})

    def evaluate(
        self,
        step: int,
        policy: evaluation.Policy | evaluation.Loader,
        pool: evaluation.EnvironmentPool,
        settings: EvaluationSettings,
        *,
        workers: int = 1,
        progress: bool = True,
    ) -> EvaluationResult:
        """Evaluate the policy of a step's checkpoint and store the result.

        An interrupted evaluation keeps its finished blocks, from which the next one with these settings continues.

        Args:
            step: of the checkpoint.
            policy: as for `evaluate`.
            pool: the environments.
            settings: from `make_settings` for this pool.
            workers: processes.
            progress: show a bar.
        """
        path = self.path(step, settings)
        # Unfinished blocks with recorded paths are no use to an evaluation without, and the other way round.
        partial = path.with_suffix(f".{settings.record or 'plain'}.progress.jsonl")
        result = evaluation.evaluate(
            policy,
            pool,
            episodes_per_task=settings.episodes_per_task,
            seed=settings.seed,
            record=settings.record,
            label=settings.label,
            workers=workers,
            progress_file=partial,
            progress=progress,
        )
        if settings.record is not None:
            result.save_trajectories(path.with_suffix(".npz"))
        result.save(path)
        partial.unlink(missing_ok=True)
        return result


def load_trajectories(path: Path, result: EvaluationResult) -> dict[str, np.ndarray] | None:
    """Return the paths recorded with an evaluation, as `save_trajectories` describes them.

    None without recorded paths, or where those beside the file belong to another evaluation.

    Args:
        path: the evaluation's file.
        result: its content.
    """
    file = path.with_suffix(".npz")
    if not file.exists():
        return None
    with np.load(file, allow_pickle=False) as archive:
        arrays = dict(archive)
    columns = {"task_ids": "task_id", "episodes": "episode", "successes": "success"}
    for column, name in columns.items():
        if not np.array_equal(arrays[column], [getattr(episode, name) for episode in result.episodes]):
            return None
    lengths = np.array([episode.length + 1 for episode in result.episodes])
    return arrays if np.array_equal(np.diff(arrays["offsets"]), lengths) else None
