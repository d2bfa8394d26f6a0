"""A run's claim on its folder: who holds it, whether it is the same run, and where it continues."""

import json
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nfkern
from nfkern.algorithms.agents.base import AgentConfig
from nfkern.algorithms.runs.folder import checkpoints, read_header
from nfkern.algorithms.runs.settings import CommonSettings
from nfkern.errors import UserError
from nfkern.host.files import write_json

# What two runs must have in common to be one; of `config`, all but the number of steps.
COMPARED = ("algorithm", "env_name", "seed", "dataset", "train_episodes", "config")


def claim(run_dirs: Mapping[int, Path], algorithm: str, config: AgentConfig, settings: CommonSettings) -> int:
    """Claim the folders of all seeds, or of none: the step from which they continue, 0 for the start.

    A run may be given more steps than it was begun with if its learning rate does not depend on their number, or if it
    has taken all that it was begun with.

    Raises:
        UserError: a folder holds a run and `settings.resume` is off, or holds another run or other things, or the
            seeds' checkpoints do not belong together.
    """
    headers = {path: _header(seed, algorithm, config, settings) for seed, path in run_dirs.items()}
    held = [path for path in headers if (path / "config.json").exists()]
    if held and not settings.resume:
        raise UserError(f"{held[0]} already holds a run: continue it with --resume, or choose another --run-dir")
    there = {path: read_header(path) for path in held}
    for path, header in headers.items():
        if path in there:
            _check_same_run(path, there[path], header)
        else:
            _check_empty(path, settings)
    step = _common_step(list(headers), settings.checkpoint_interval)
    for path, header in there.items():
        _check_steps(path, header, config, step)
    for path, header in headers.items():
        write_json(path / "config.json", there.get(path, header) | {"config": header["config"]})
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
        **settings.header(),
        "versions": {
            "nfkern": nfkern.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
    }


def release(run_dirs: Iterable[Path]) -> None:
    """Give claimed folders back whose runs could not be begun: with no checkpoint, nothing is lost."""
    for path in run_dirs:
        if not checkpoints(path):
            (path / "config.json").unlink(missing_ok=True)


def _check_steps(run_dir: Path, saved: dict[str, Any], config: AgentConfig, step: int) -> None:
    """Other steps than it was begun with must leave the learning rates so far as they were."""
    begun_with = saved["config"].get("steps")
    if config.steps == begun_with:
        return
    if config.steps < step:
        raise UserError(f"{run_dir} has taken {step} steps: expected --steps of at least that, got {config.steps}")
    if config.schedule != "constant" and step < begun_with:
        raise UserError(
            f"{run_dir} is at step {step} of {begun_with}, which its {config.schedule} schedule spans: let it take "
            f"these first (--steps {begun_with}), or choose another --run-dir"
        )


def _check_same_run(run_dir: Path, saved: dict[str, Any], header: dict[str, Any]) -> None:
    # Through JSON, as the saved one went: it turns tuples into lists.
    old, new = (_flat(value) for value in (saved, json.loads(json.dumps(header))))
    compared = {key for key in old | new if key.split(".")[0] in COMPARED} - {"config.steps"}
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
