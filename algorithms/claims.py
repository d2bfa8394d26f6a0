"""A run's claim on its folder: who holds it, whether it is the same run, and where it continues."""

import json
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nfkern
from nfkern.algorithms.agent import AgentConfig
from nfkern.algorithms.run_settings import CommonSettings
from nfkern.algorithms.runs import checkpoints
from nfkern.checkpoint import read_json, write_json
from nfkern.errors import UserError


def claim(run_dirs: Mapping[int, Path], algorithm: str, config: AgentConfig, settings: CommonSettings) -> int:
    """Claim the folders of all seeds, or of none: the step from which they continue, 0 for the start.

    Raises:
        UserError: a folder holds a run and `settings.resume` is off, or holds another run or other things, or the
            seeds' checkpoints do not belong together.
    """
    headers = {path: _header(seed, algorithm, config, settings) for seed, path in run_dirs.items()}
    for path, header in headers.items():
        if (path / "config.json").exists():
            _check_same_run(path, header, settings)
        else:
            _check_empty(path, settings)
    step = _common_step(list(headers), settings.checkpoint_interval)
    for path, header in headers.items():
        if not (path / "config.json").exists():
            write_json(path / "config.json", header)
        for ahead in checkpoints(path):
            if int(ahead.name) > step:
                shutil.rmtree(ahead)
    return step


def _common_step(run_dirs: list[Path], checkpoint_interval: int) -> int:
    """The newest step of which every seed has a checkpoint.

    A process killed while it saved leaves some seeds one checkpoint ahead; they take those steps once more.
    """
    steps = [{0, *(int(path.name) for path in checkpoints(run_dir))} for run_dir in run_dirs]
    common = max(set.intersection(*steps))
    ahead = [max(found) for found in steps if max(found) > common]
    together = all((run_dir / "config.json").exists() for run_dir in run_dirs)
    if ahead and (not together or max(ahead) > common + checkpoint_interval):
        at = ", ".join(f"{path.name} at {max(found)}" for path, found in zip(run_dirs, steps, strict=True))
        raise UserError(
            f"{run_dirs[0].parent}: the seeds are at different steps ({at}): continue them one by one with --seed, or "
            "choose another --run-dir"
        )
    return common


def _header(seed: int, algorithm: str, config: AgentConfig, settings: CommonSettings) -> dict[str, Any]:
    return {
        "algorithm": algorithm,
        "env_name": settings.env_name,
        "seed": seed,
        "dataset": settings.dataset_digest(),
        "config": asdict(config),
        "versions": {
            "nfkern": nfkern.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
    }


def _check_same_run(run_dir: Path, header: dict[str, Any], settings: CommonSettings) -> None:
    if not settings.resume:
        raise UserError(f"{run_dir} already holds a run: continue it with --resume, or choose another --run-dir")
    saved = read_json(run_dir / "config.json")
    # Through JSON, as the saved one went: it turns tuples into lists.
    old, new = (_flat(value) for value in (saved, json.loads(json.dumps(header))))
    compared = {key for key in old | new if key.split(".")[0] in ("algorithm", "env_name", "seed", "dataset", "config")}
    different = sorted(key for key in compared if old.get(key) != new.get(key))
    if different:
        changes = ", ".join(f"{key} {old.get(key)} there, {new.get(key)} now" for key in different)
        raise UserError(f"{run_dir} holds another run: {changes}; choose another --run-dir")


def _check_empty(run_dir: Path, settings: CommonSettings) -> None:
    """Refuse a folder of other things; hidden files, empty folders and, with --resume, a sweep's log.txt are none."""
    entries = [entry for entry in run_dir.iterdir() if not entry.name.startswith(".")]
    found = sorted(entry.name for entry in entries if not entry.is_dir() or any(entry.iterdir()))
    if found and not (settings.resume and found == ["log.txt"]):
        more = ", ..." if len(found) > 3 else ""
        raise UserError(
            f"{run_dir}: expected a new or empty folder, or a run with its config.json, got "
            f"{', '.join(found[:3])}{more}; choose another --run-dir"
        )


def _flat(header: dict[str, Any]) -> dict[str, Any]:
    """The header with its settings as `config.name`."""
    config = header.get("config", {})
    return {key: value for key, value in header.items() if key != "config"} | {
        f"config.{key}": value for key, value in config.items()
    }
