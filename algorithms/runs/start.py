"""The start of runs in their folders, or the step from which those that lie there continue."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

import nfkern
from nfkern.algorithms.agents.config import AgentConfig
from nfkern.algorithms.runs.run import Run, release_without_results
from nfkern.algorithms.runs.settings import CommonSettings
from nfkern.errors import UserError

# Two runs that agree in these are one; of `config`, in all but the number of steps.
COMPARED = ("algorithm", "env_name", "seed", "dataset", "train_episodes", "config")
# And in these, if the command that continues a run names them.
COMPARED_IF_NAMED = ("init_from",)


def resume_or_start(runs: Mapping[int, Run], algorithm: str, config: AgentConfig, settings: CommonSettings) -> int:
    """Claim the folders of all seeds, or of none, and return the step from which they continue, 0 for the start.

    A folder that holds a run without results, which needs no continuing, counts as empty.

    A run may be given more steps than it was begun with if its learning rate does not depend on their number, or if it
    has taken all that it was begun with.

    Raises:
        UserError: a folder holds a run and `settings.resume` is off, or holds another run or other things, or the
            seeds' checkpoints do not belong together.
    """
    headers = {seed: _header(seed, algorithm, config, settings) for seed in runs}
    # A process that was killed, for want of memory for instance, may have left a claim and nothing else.
    release_without_results(list(runs.values()))
    held = {seed: run for seed, run in runs.items() if run.claimed}
    if held and not settings.resume:
        first = next(iter(held.values())).path
        raise UserError(f"{first} already holds a run: continue it with --resume, or choose another --run-dir")
    for seed, run in runs.items():
        if seed in held:
            _check_same_run(run, headers[seed])
        else:
            _check_empty(run, settings)
    step = _common_step(list(runs.values()), settings.checkpoint_interval)
    for run in held.values():
        _check_steps(run, config, step)
    for seed, run in runs.items():
        former = run.header if seed in held else headers[seed]
        run.claim(former | {"config": headers[seed]["config"]})
        run.drop_checkpoints_after(step)
    return step


def _common_step(runs: Sequence[Run], checkpoint_interval: int) -> int:
    """Return the newest step of which every seed has a checkpoint.

    A process killed while it saved leaves some seeds one checkpoint ahead; they take those steps once more.
    """
    steps = [{0, *(checkpoint.step for checkpoint in run.checkpoints())} for run in runs]
    common = max(set.intersection(*steps))
    ahead = [max(found) for found in steps if max(found) > common]
    together = all(run.claimed for run in runs)
    if ahead and (not together or max(ahead) > common + checkpoint_interval):
        at = ", ".join(f"{run.path.name} at {max(found)}" for run, found in zip(runs, steps, strict=True))
        raise UserError(
            f"{runs[0].path.parent}: the seeds are at different steps ({at}): continue them one by one with --seed, or "
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
        **({} if settings.init_from is None else {"init_from": str(settings.init_from.resolve())}),
        "versions": {
            "nfkern": nfkern.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "threads": torch.get_num_threads(),
    }


def _check_steps(run: Run, config: AgentConfig, step: int) -> None:
    """Refuse a number of steps that would have changed the learning rates of those taken."""
    begun_with = run.header["config"].get("steps")
    if config.steps == begun_with:
        return
    if config.steps < step:
        raise UserError(f"{run.path} has taken {step} steps: expected --steps of at least that, got {config.steps}")
    if config.schedule != "constant" and step < begun_with:
        raise UserError(
            f"{run.path} is at step {step} of {begun_with}, which its {config.schedule} schedule spans: let it take "
            f"these first (--steps {begun_with}), or choose another --run-dir"
        )


def _check_same_run(run: Run, header: dict[str, Any]) -> None:
    # The new header goes through JSON like the saved one, which turns tuples into lists.
    old, new = (_flat(value) for value in (run.header, json.loads(json.dumps(header))))
    compared = {key for key in old | new if key.split(".")[0] in COMPARED} - {"config.steps"}
    compared |= new.keys() & set(COMPARED_IF_NAMED)
    different = sorted(key for key in compared if old.get(key) != new.get(key))
    if different:
        changes = ", ".join(f"{key} {old.get(key)} there, {new.get(key)} now" for key in different)
        raise UserError(f"{run.path} holds another run: {changes}; choose another --run-dir")


def _check_empty(run: Run, settings: CommonSettings) -> None:
    """Refuse a folder of other things; hidden files, empty folders and, with --resume, a sweep's log.txt may stay."""
    entries = [entry for entry in run.path.iterdir() if not entry.name.startswith(".")]
    found = sorted(entry.name for entry in entries if not entry.is_dir() or any(entry.iterdir()))
    if found and not (settings.resume and found == ["log.txt"]):
        more = ", ..." if len(found) > 3 else ""
        raise UserError(
            f"{run.path}: expected a new or empty folder, or a run with its config.json, got "
            f"{', '.join(found[:3])}{more}; choose another --run-dir"
        )


def _flat(header: dict[str, Any]) -> dict[str, Any]:
    """Return the header with its settings as `config.name`."""
    config = header.get("config", {})
    return {key: value for key, value in header.items() if key != "config"} | {
        f"config.{key}": value for key, value in config.items()
    }
