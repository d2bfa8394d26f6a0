"""Where a run keeps its evaluations: a file for each step and settings, so that none takes the place of another."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from nfkern.algorithms.evaluation.result import EvaluationResult, EvaluationSettings


def evaluation_path(run_dir: Path, step: int, settings: EvaluationSettings) -> Path:
    """RUN/evaluations/STEP-SEED-DIGEST.json, the digest being of all settings but whether paths are recorded."""
    text = json.dumps(dataclasses.replace(settings, record=None).to_dict(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return run_dir / "evaluations" / f"{step:08d}-{settings.seed}-{digest}.json"


def find_evaluation(run_dir: Path, step: int, **wanted: Any) -> tuple[Path, EvaluationResult] | None:
    """The newest evaluation of a step's checkpoint whose settings have the wanted values, and its file."""
    files = sorted(evaluation_files(run_dir, step), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in files:
        result = EvaluationResult.load(path)
        if all(getattr(result.settings, name) == value for name, value in wanted.items()):
            return path, result
    return None


def find_same(run_dir: Path, step: int, settings: EvaluationSettings) -> tuple[Path, EvaluationResult] | None:
    """A stored evaluation with these settings, whatever its file is called and whether it has paths or not."""
    names = (field.name for field in dataclasses.fields(settings) if field.name != "record")
    return find_evaluation(run_dir, step, **{name: getattr(settings, name) for name in names})


def evaluation_files(run_dir: Path, step: int | None = None) -> list[Path]:
    """The files of a run's evaluations, of one step or of all."""
    pattern = "*-*.json" if step is None else f"{step:08d}-*.json"
    return [path for path in sorted((run_dir / "evaluations").glob(pattern)) if path.name.split("-")[0].isdigit()]


def load_trajectories(path: Path, result: EvaluationResult) -> dict[str, np.ndarray] | None:
    """The paths recorded with an evaluation, as `save_trajectories` describes them; None without, or of another one.

    Args:
        path: the evaluation's file.
        result: what it holds.
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
