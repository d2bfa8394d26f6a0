"""A training run on disk: its settings, lock, checkpoints, logs and evaluations, all in one folder."""

import contextlib
import csv
import functools
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.online.base import OnlineGCRL
from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data.manifest import DEFAULT_DATASET_DIR
from nfkern.algorithms.runs.checkpoint import Checkpoint
from nfkern.errors import UserError, reason
from nfkern.host.files import read_json, write_json

if TYPE_CHECKING:
    from nfkern.algorithms.runs.evaluations import Evaluations


@dataclass(frozen=True)
class Run:
    """The folder of one training run, which need not exist yet; what it holds is read when it is asked for.

    It holds config.json, checkpoints/, train.csv, eval.csv, tensorboard/ and evaluations/.
    """

    path: Path

    # Settings

    @functools.cached_property
    def header(self) -> dict[str, Any]:
        """The content of config.json: the run's algorithm, `env_name`, seed, settings and versions.

        Raises:
            UserError: the folder is no run, or the file is damaged.
        """
        return self._read_header()

    def _read_header(self) -> dict[str, Any]:
        path = self.path / "config.json"
        try:
            header: dict[str, Any] = read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self.path} is no run: expected a folder with config.json, as `nfkern train` writes it"
            ) from None
        except ValueError as error:
            raise UserError(f"{path} cannot be used: {error}") from None
        missing = [name for name in ("algorithm", "env_name", "config", "seed") if name not in header]
        if missing:
            raise UserError(f"{path} is no run's: it lacks {', '.join(missing)}")
        return header

    @property
    def claimed(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "config.json").exists()

    def claim(self, header: Mapping[str, Any]) -> None:
        """Make the folder this run's: write config.json."""
        write_json(self.path / "config.json", dict(header))
        self.__dict__.pop("header", None)

    @property
    def algorithm(self) -> str:
        """The algorithm's name."""
        return str(self.header["algorithm"])

    @property
    def env_name(self) -> str:
        """The dataset or environment that is learned from."""
        return str(self.header["env_name"])

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.header["seed"])

    @property
    def evaluated_in(self) -> str:
        """The environment of the run's evaluations: that of its data, unless it was given another."""
        name = str(self.header.get("eval_env") or self.env_name)
        return Path(name).stem if name.endswith(".npz") else name

    @property
    def dataset_dir(self) -> Path:
        """The folder of the datasets that the run was begun with."""
        return Path(self.header.get("dataset_dir") or DEFAULT_DATASET_DIR)

    def seed_group(self, checkpoint: Checkpoint) -> str:
        """Return everything about a policy but its seed: runs that agree are training seeds of one algorithm."""
        keys = ("env_name", "algorithm", "config", "dataset")
        return json.dumps([checkpoint.path.name, *(self.header.get(key) for key in keys)], sort_keys=True)

    def check_on_dataset(self) -> None:
        """Refuse a run in a maze, which has no tasks of OGBench and no dataset.

        Raises:
            UserError: it is one, or the folder is no run.
        """
        agent = AGENTS.get(self.algorithm)
        if agent is not None and issubclass(agent, OnlineGCRL):
            raise UserError(
                f"{self.path} is a run in a maze, which its training has evaluated: see {self.path / 'eval.csv'} and "
                f"{self.path / 'coverage.png'}; expected a run on a dataset"
            )

    # Checkpoints

    def checkpoint(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step, whether it exists or not."""
        return Checkpoint(self.path / "checkpoints" / f"{step:08d}")

    def checkpoints(self) -> list[Checkpoint]:
        """Return the checkpoints, oldest first."""
        folder = self.path / "checkpoints"
        found = [Checkpoint(path) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def latest_checkpoint(self) -> Checkpoint:
        """Return the newest checkpoint.

        Raises:
            UserError: the folder is no run, or has no checkpoint yet.
        """
        if not self.claimed:
            raise UserError(f"{self.path} is no run: expected a folder with config.json, as `nfkern train` writes it")
        found = self.checkpoints()
        if not found:
            raise UserError(
                f"{self.path} has no checkpoint yet: let `nfkern train` run longer, or continue it with --resume"
            )
        return found[-1]

    def save_checkpoint(
        self,
        step: int,
        agent: Agent,
        sampler_states: Mapping[str, Any],
        generator: torch.Generator = torch.default_generator,
        arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        """Write the checkpoint of a step, see `Checkpoint.save`."""
        self.checkpoint(step).save(agent, sampler_states, generator, arrays)

    def drop_old_checkpoints(self, keep: int) -> None:
        """Leave only the newest `keep` checkpoints, at least 1."""
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old.path)

    def drop_checkpoints_after(self, step: int) -> None:
        """Remove the checkpoints of later steps."""
        for ahead in self.checkpoints():
            if ahead.step > step:
                shutil.rmtree(ahead.path)

    # Logs and evaluations

    @property
    def evaluations(self) -> "Evaluations":
        """The stored evaluations of the checkpoints."""
        # Only now, for training without evaluations needs no simulator.
        from nfkern.algorithms.runs.evaluations import Evaluations

        return Evaluations(self.path / "evaluations")

    def rows(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a log, train.csv or eval.csv; none without the file."""
        path = self.path / name
        if not path.exists():
            return []
        with open(path, newline="") as file:
            return list(csv.DictReader(file))

    def newest_success(self) -> str | None:
        """Return the last row of eval.csv in words; None without one."""
        rows = self.rows("eval.csv")
        if not rows:
            return None
        row = rows[-1]
        words = [
            f"{name} {float(row[f'evaluation/{name}']):.1%}"
            for name in ("success", "score")
            if f"evaluation/{name}" in row
        ]
        # For an environment without success, the return is the result.
        if value := row.get("evaluation/return"):
            words.append(f"return {float(value):.4g}")
        return f"{', '.join(words)} at step {row['step']}"

    # Lock and release

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the folder to one process at a time; a killed process holds nothing.

        The lock's file stays: once it is removed, a process that has it open and one that makes it anew would both
        hold it.

        Raises:
            UserError: another process writes there, or there can be no such folder.
        """
        if self.path.is_file():
            raise UserError(f"{self.path} is a file: expected a folder, or a new one's name")
        created = not self.path.exists()
        path = self.path / ".lock"
        lock = FileLock(path, timeout=0)
        try:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot be made: {reason(error)}; choose another --run-dir") from None
        try:
            lock.acquire()
        except (Timeout, FileNotFoundError):
            # A process that began nothing may have removed the folder in between.
            raise UserError(
                f"another process is training in {self.path}{_holder(path)}: wait, or choose another folder"
            ) from None
        try:
            # Only for the message: some systems let nobody write to a locked file.
            with contextlib.suppress(OSError):
                path.write_text(f"process {os.getpid()} on {platform.node()}")
            for leftover in (self.path / "checkpoints").glob(".*"):
                # A process killed while it saved could not tidy up.
                shutil.rmtree(leftover)
            yield
        finally:
            with contextlib.suppress(OSError):
                if created and [file.name for file in self.path.iterdir()] == [path.name]:
                    # Nothing has begun here. A process that has the file open is refused: filelock sees that it is
                    # gone.
                    path.unlink()
                    self.path.rmdir()
            lock.release()

    @property
    def has_results(self) -> bool:
        """Whether there is a checkpoint, a row of a log or an evaluation."""
        return bool(self.checkpoints() or self.rows("train.csv") or self.rows("eval.csv")) or any(
            (self.path / "evaluations").glob("*.json")
        )

    def release(self) -> None:
        """Give the folder back: remove what a start writes before there are results.

        Raises:
            UserError: config.json is no run's, but another program's.
        """
        if not self.claimed:
            return
        # A run has claimed only an empty folder, so that everything here is its own.
        self._read_header()
        (self.path / "config.json").unlink()
        for folder in ("tensorboard", "wandb"):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        self.__dict__.pop("header", None)


@contextlib.contextmanager
def released_on_error(runs: Sequence[Run]) -> Iterator[None]:
    """Give the folders of runs back that end by an error before any of them has results.

    The same command, with a smaller batch for instance, can then be given for the same folders. Seeds that are trained
    together stay together: one of them with results keeps all.
    """
    try:
        yield
    except BaseException:
        release_without_results(runs)
        raise


def release_without_results(runs: Sequence[Run]) -> None:
    """Give the folders of runs back, unless one of them has results."""
    if not any(run.has_results for run in runs):
        for run in runs:
            run.release()


def _holder(path: Path) -> str:
    """Return the holder's name from a lock's file, in brackets; empty where that cannot be read."""
    with contextlib.suppress(OSError):
        if text := path.read_text(errors="replace").strip():
            return f" ({text})"
    return ""
