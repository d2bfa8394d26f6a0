"""`nfkern bench success`."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nfkern.algorithms.data import DEFAULT_DATASET_DIR, TransitionDataset
from nfkern.algorithms.data.manifest import DatasetFiles, Manifest
from nfkern.algorithms.data.recipes import data_name
from nfkern.algorithms.envs import imitation
from nfkern.bench.core.environment import Environment
from nfkern.bench.studies import records
from nfkern.bench.studies.command import Piece, StudyCommand, chosen_names
from nfkern.bench.studies.success import study
from nfkern.bench.studies.success.policies import POLICIES, TRAININGS, config_of
from nfkern.bench.studies.success.records import Dataset, Results, Settings
from nfkern.bench.studies.success.report import DEFAULT, REPORT, TRANSITIONS
from nfkern.errors import UserError, check_least
from nfkern.host.files import write_json

_LIBRARIES = ("ogbench", "mujoco", "gymnasium", "diffusers")
_MARK = "study.json"


@dataclass(frozen=True)
class Success(StudyCommand[Results]):
    """Train goal-conditioned policies as `nfkern train` does; say what they reach in the simulator and at which cost.

    Flow, Gaussian, flow matching and diffusion learn from the same data in as many gradient steps; measured are success
    on the way and at the end, training speed, seconds of training to a given success, and the time of an action. About
    an hour on two cores, a quarter of it for the episodes of diffusion with 100 steps. Everything is in the file as
    soon as it is done, and trainings have checkpoints: after Ctrl-C, the same command goes on.
    """

    report = REPORT
    trainings = TRAININGS
    told_only = ("target",)

    envs: tuple[str, ...] = ()
    """Which of OGBench's datasets with goals; by default a point maze and cube-single."""
    policies: tuple[str, ...] = ()
    """Which policies; all by default."""
    parameters: int | None = None
    """Numbers in the networks that act, the same for all; by default each algorithm's own size."""
    target: float | None = None
    """Success, 0 to 1, to which the time of training is told; by default half of the best in an environment."""
    threads: int = DEFAULT.threads
    """CPU threads of the trainings."""
    workers: int = 2
    """Processes of an evaluation; no number depends on them."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Where datasets lie, as `nfkern data generate` makes them."""
    run_dir: Path | None = None
    """Folder of the study's runs, some hundred megabytes; default beside the results, with their name and `.runs`."""

    def changes(self, preset: Settings) -> dict[str, Any]:
        """Return the options that are settings; a number of steps brings five evaluations with it."""
        policies = chosen_names("policies", self.policies or preset.policies, POLICIES)
        check_least({"parameters": self.parameters, "threads": self.threads, "workers": self.workers})
        if self.target is not None and not 0 < self.target <= 1:
            raise UserError(f"--target: expected a share above 0 and up to 1, got {self.target:g}")
        for env in self.envs:
            _check_name(env)
        envs = tuple(dict.fromkeys(self.envs or preset.envs))
        steps = {} if self.steps is None else {"steps": self.steps, "eval_interval": max(1, self.steps // 5)}
        same = {name: getattr(self, name) for name in ("parameters", "threads", "target")}
        return {"envs": envs, "policies": policies} | steps | same

    def material(self, settings: Settings) -> dict[str, Any]:
        """Return the data that are learned from."""
        return {"datasets": {env: self._dataset(env) for env in settings.envs}}

    def pieces(self, results: Results) -> Iterator[Piece]:
        """Yield the work that the results lack."""
        return study.pieces(results, study.Place(self._runs, self.dataset_dir.expanduser(), self.workers))

    def prepare(self, results: Results) -> None:
        """Refuse other data, impossible sizes and a folder of other runs; the file is there before its runs."""
        for env, dataset in results.datasets.items():
            if self._dataset(env) != dataset:
                raise UserError(
                    f"{self.out} was made with other data of {env} than {self.dataset_dir} has: choose another --out, "
                    "or --overwrite it"
                )
            for training in study.trainings(results):
                try:
                    config_of(results.settings, training, dataset)
                except ValueError as error:
                    raise UserError(f"--parameters: {training.name} in {env}: {error}") from None
        self._claim_runs(results.started)
        records.write(self.out, results)

    def environment(self) -> Environment:
        """Return the machine, with the versions of what episodes and diffusion are computed with."""
        environment = super().environment()
        versions = {name: metadata.version(name) for name in _LIBRARIES if find_spec(name) is not None}
        return replace(environment, versions=environment.versions | versions)

    @property
    def _runs(self) -> Path:
        return self.run_dir or self.out.with_suffix(".runs")

    def _claim_runs(self, started: str) -> None:
        """Make the folder of the runs these results' own, or find that it is.

        Raises:
            UserError: it has something else.
        """
        runs, mark = self._runs, self._runs / _MARK
        try:
            there = json.loads(mark.read_text())["started"]
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            # Nobody's, whether it was never there or is damaged.
            there = None
        if there == started:
            return
        if runs.exists() and any(runs.iterdir()):
            if there is None:
                raise UserError(f"{runs} holds other things than runs of this study: choose another --run-dir")
            if not self.overwrite:
                raise UserError(f"{runs} has the runs of other results: choose another --run-dir, or --overwrite them")
            shutil.rmtree(runs)
        runs.mkdir(parents=True, exist_ok=True)
        write_json(mark, {"started": started})

    def _dataset(self, env: str) -> Dataset:
        files = DatasetFiles(self.dataset_dir.expanduser(), env)
        if not all(path.exists() for path in files.splits.values()):
            size = f" --transitions {TRANSITIONS[env]}" if env in TRANSITIONS else ""
            folder = "" if self.dataset_dir == DEFAULT_DATASET_DIR else f" --dataset-dir {self.dataset_dir}"
            raise UserError(
                f"{self.dataset_dir} lacks the dataset {env}: make it with `nfkern data generate {env}{size}{folder}`"
            )
        dataset, manifest = TransitionDataset.load(env, files.directory), Manifest.read(files.manifest)
        digest = manifest.sha256.get(files.train.name) if manifest else None
        return Dataset(len(dataset), dataset.observation_size, dataset.action_size, digest)


def _check_name(env: str) -> None:
    example = "such as pointmaze-medium-navigate-v0"
    if imitation.environment_id(env) is not None or data_name(env) != env:
        raise UserError(f"--envs: expected OGBench's datasets with goals, {example}, got {env!r}")
    from nfkern.algorithms.envs.make import environment_id

    try:
        environment = environment_id(env)
    except UserError as error:
        raise UserError(f"--envs: {error}") from None
    if environment == env:
        raise UserError(f"--envs: expected the name of a dataset, {example}, got the environment {env}")
