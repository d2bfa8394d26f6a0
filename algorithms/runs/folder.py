"""The folder of a run: its settings, its logs, and checkpoints that a killed run continues from exactly."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.numpy import save_file as save_numpy_file
from safetensors.torch import save_file

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.online.base import OnlineGCRL
from nfkern.algorithms.agents.registry import AGENTS, load_agent, save_agent
from nfkern.checkpoint import read_tensors
from nfkern.errors import UserError
from nfkern.host.files import atomic_folder, read_json


def checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    folder = run_dir / "checkpoints"
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def latest_checkpoint(run_dir: Path) -> Path:
    """The run's newest checkpoint.

    Raises:
        UserError: the folder is no run, or has no checkpoint yet.
    """
    if not (run_dir / "config.json").exists():
        raise UserError(f"{run_dir} is no run: expected a folder with config.json, as `nfkern train` writes it")
    found = checkpoints(run_dir)
    if not found:
        raise UserError(f"{run_dir} has no checkpoint yet: let `nfkern train` run longer, or continue it with --resume")
    return found[-1]


def check_on_dataset(run_dir: Path, algorithm: str) -> None:
    """Refuse a run in a maze, which has no tasks of OGBench and no dataset.

    Raises:
        UserError: it is one.
    """
    agent = AGENTS.get(algorithm)
    if agent is not None and issubclass(agent, OnlineGCRL):
        raise UserError(
            f"{run_dir} is a run in a maze, which its training has evaluated: see {run_dir / 'eval.csv'} and "
            f"{run_dir / 'coverage.png'}; expected a run on a dataset"
        )


def read_header(run_dir: Path) -> dict[str, Any]:
    """What config.json says of a run: its algorithm, `env_name`, seed, settings and versions.

    Raises:
        UserError: the folder is no run, or the file is damaged.
    """
    path = run_dir / "config.json"
    try:
        header: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        raise UserError(
            f"{run_dir} is no run: expected a folder with config.json, as `nfkern train` writes it"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} cannot be used: {error}") from None
    missing = [name for name in ("algorithm", "env_name", "config", "seed") if name not in header]
    if missing:
        raise UserError(f"{path} is no run's: it lacks {', '.join(missing)}")
    return header


def evaluated_in(header: Mapping[str, Any]) -> str:
    """The environment in which a run is evaluated: that of its data, unless it was given another."""
    name = str(header.get("eval_env") or header["env_name"])
    return Path(name).stem if name.endswith(".npz") else name


def checkpoint_label(checkpoint: Path) -> str:
    """A name for a checkpoint's policy that another policy cannot have: algorithm, step and a hash of the weights."""
    digest = hashlib.sha256((checkpoint / "agent.safetensors").read_bytes()).hexdigest()[:12]
    return f"{read_json(checkpoint / 'config.json')['algorithm']} {checkpoint.name} {digest}"


def seed_group(header: Mapping[str, Any], checkpoint: Path) -> str:
    """Everything about a trained policy but its seed: runs that agree in it are training seeds of one algorithm."""
    keys = ("env_name", "algorithm", "config", "dataset")
    return json.dumps([checkpoint.name, *(header.get(key) for key in keys)], sort_keys=True)


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep a run's folder to one process at a time; a killed process holds nothing.

    The lock's file stays: once it is removed, a process that has it open and one that makes it anew would both hold it.

    Raises:
        UserError: another process writes there.
    """
    if run_dir.is_file():
        raise UserError(f"{run_dir} is a file: expected a folder, or a new one's name")
    created = not run_dir.exists()
    path = run_dir / ".lock"
    lock = FileLock(path, timeout=0)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (Timeout, FileNotFoundError, FileExistsError):
        # Not there, or there and then not: a process that began nothing has removed the folder in between.
        raise UserError(
            f"another process is training in {run_dir}{_holder(path)}: wait, or choose another folder"
        ) from None
    try:
        # For the message alone: some systems let nobody write to a locked file.
        with contextlib.suppress(OSError):
            path.write_text(f"process {os.getpid()} on {platform.node()}")
        for leftover in (run_dir / "checkpoints").glob(".*"):
            # A process killed while it saved could not tidy up.
            shutil.rmtree(leftover)
        yield
    finally:
        with contextlib.suppress(OSError):
            if created and [file.name for file in run_dir.iterdir()] == [path.name]:
                # Nothing has begun here. A process that has the file open is refused: filelock sees that it is gone.
                path.unlink()
                run_dir.rmdir()
        lock.release()


def _holder(path: Path) -> str:
    """Who wrote into a lock's file, in brackets; empty where that cannot be read."""
    with contextlib.suppress(OSError):
        if text := path.read_text(errors="replace").strip():
            return f" ({text})"
    return ""


def save_checkpoint(
    run_dir: Path,
    step: int,
    agent: Agent,
    sampler_states: Mapping[str, Any],
    generator: torch.Generator = torch.default_generator,
    arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Path:
    """Write everything that the rest of the run depends on.

    Args:
        run_dir: the run.
        step: gradient steps taken so far.
        agent: with its optimiser and schedule.
        sampler_states: JSON-able states of the batch samplers.
        generator: of the loss's randomness.
        arrays: more to keep, by the name of a file.
    """
    optimizer = agent.optimizer.state_dict()
    tensors = {
        f"optimizer.{index}.{name}": value
        for index, entry in optimizer["state"].items()
        for name, value in entry.items()
    }
    tensors[f"rng.{generator.device.type}"] = generator.get_state()
    state = {
        "step": step,
        "param_groups": optimizer["param_groups"],
        "scheduler": agent.scheduler.state_dict(),
        "samplers": dict(sampler_states),
    }
    path = run_dir / "checkpoints" / f"{step:08d}"
    with atomic_folder(path) as folder:
        save_agent(agent, folder)
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "training.safetensors"
        )
        for name, kept in (arrays or {}).items():
            save_numpy_file(dict(kept), folder / f"{name}.safetensors")
        (folder / "training.json").write_text(json.dumps(state))
    return path


def drop_old_checkpoints(run_dir: Path, keep: int) -> None:
    """Leave only the newest `keep` checkpoints, at least 1."""
    for old in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old)


def load_checkpoint(
    path: Path, device: torch.device, generator: torch.Generator = torch.default_generator
) -> tuple[Agent, int, dict[str, Any]]:
    """Restore agent, optimiser, schedule and the generator's state: the agent, its step, and the samplers' states."""
    agent = load_agent(path, device)
    state = read_json(path / "training.json")
    entries: dict[int, dict[str, torch.Tensor]] = {}
    random_states = {}
    for key, tensor in read_tensors(path / "training.safetensors").items():
        kind, *rest = key.split(".")
        if kind == "optimizer":
            entries.setdefault(int(rest[0]), {})[rest[1]] = tensor
        else:
            random_states[rest[0]] = tensor
    agent.optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
    agent.scheduler.load_state_dict(state["scheduler"])
    if generator.device.type in random_states:
        generator.set_state(random_states[generator.device.type])
    return agent, state["step"], state["samplers"]
