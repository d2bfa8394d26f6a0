"""`nfkern bench success`."""

import json
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from nfkern.algorithms.data import DEFAULT_DATASET_DIR, TransitionDataset
from nfkern.algorithms.data.manifest import DatasetFiles, Manifest
from nfkern.algorithms.data.recipes import data_name
from nfkern.algorithms.envs import imitation
from nfkern.algorithms.training.loop import Interrupted
from nfkern.bench.core.environment import Environment, current_environment
from nfkern.bench.core.files import check_writable
from nfkern.bench.studies.checks import (
    check_environment,
    check_names,
    check_reports,
    check_settings,
    how_to_go_on,
)
from nfkern.bench.studies.policies import skipped
from nfkern.bench.studies.success import records as storage
from nfkern.bench.studies.success.policies import POLICIES, TRAININGS, config_of
from nfkern.bench.studies.success.records import Dataset, Evaluation, Results, Settings, Trained
from nfkern.bench.studies.success.study import Place, pieces, trainings
from nfkern.bench.studies.success.tables import to_markdown
from nfkern.bench.studies.tables import write_reports
from nfkern.errors import UserError, check_least
from nfkern.host.files import write_json

TRANSITIONS = {"pointmaze-medium-navigate-v0": 100_000, "cube-single-play-v0": 300_000}
"""Transitions that are enough for the default environments, far fewer than were published."""

DEFAULT = Settings(tuple(TRANSITIONS), tuple(POLICIES))
QUICK = replace(
    DEFAULT,
    envs=("pointmaze-medium-navigate-v0",),
    policies=tuple(name for name, policy in POLICIES.items() if policy.training != "diffusion"),
    seeds=(0,),
    steps=100,
    eval_interval=50,
    eval_episodes=1,
    final_episodes=1,
)

_LIBRARIES = ("ogbench", "mujoco", "gymnasium", "diffusers")
_MARK = "study.json"


@dataclass(frozen=True)
class Success:
    """Train goal-conditioned policies as `nfkern train` does; say what they reach in the simulator and at which cost.

    Flow, Gaussian, flow matching and diffusion learn from the same data in as many gradient steps; measured are success
    on the way and at the end, training speed, seconds of training to a given success, and the time of an action. About
    an hour on two cores, a quarter of it for the episodes of diffusion with 100 steps. Everything is in the file as
    soon as it is done, and trainings have checkpoints: after Ctrl-C, the same command goes on.
    """

    out: Path
    """File of the results, JSON."""
    quick: bool = False
    """About two minutes: 100 steps in one maze, without diffusion; enough to try the study and for nothing else."""
    envs: tuple[str, ...] = ()
    """Which of OGBench's datasets with goals; by default a point maze and cube-single."""
    policies: tuple[str, ...] = ()
    """Which policies; all by default."""
    steps: int | None = None
    """Gradient steps of each training, with five evaluations on the way and at the end."""
    seeds: int | None = None
    """Number of training seeds."""
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
    html: Path | None = None
    """Also write the results as a page that opens without network."""
    tables: Path | None = None
    """Also put the results' tables into this Markdown file, between its two marks."""
    retry: bool = False
    """Do again what failed."""
    overwrite: bool = False
    """Replace an existing file and its runs."""

    def run(self) -> int:
        """Measure and write; 0, 1 if a policy failed, 130 if interrupted."""
        settings = self._settings()
        check_reports(self.html, self.tables)
        results = self._earlier(settings) or self._empty(settings)
        place = Place(self.run_dir or self.out.with_suffix(".runs"), self.dataset_dir.expanduser(), self.workers)
        pending = list(pieces(results, place))
        if pending:
            check_writable(self.out)
            check_environment(self.out, results.environment, _environment())
            self._check_data(results)
            _check_sizes(results)
            _claim(place.runs, results.started, self.overwrite)
            storage.write(self.out, results)
        for name, reason in results.skipped.items():
            print(f"skipped: {name}: {reason}")
        try:
            for number, piece in enumerate(pending, 1):
                print(f"[{number}/{len(pending)}] {piece.name}", flush=True)
                piece.run()
                storage.write(self.out, results)
        except (Interrupted, KeyboardInterrupt):
            print(how_to_go_on(self.out, self.overwrite))
            return 130
        rows: list[Trained | Evaluation] = [*results.trainings, *results.evaluations]
        failed = [row for row in rows if row.error]
        print(f"{len(results.trainings)} trainings and {len(results.evaluations)} evaluations in {self.out}")
        for row in failed:
            what = f"training {row.training}" if isinstance(row, Trained) else f"{row.policy} after {row.step} steps"
            print(f"failed: {row.env}: {what}, seed {row.seed}: {row.error}")
        write_reports(self.out, self.html, self.tables, partial(to_markdown, results))
        return 1 if failed else 0

    def _settings(self) -> Settings:
        base = QUICK if self.quick else DEFAULT
        policies, envs = self.policies or base.policies, self.envs or base.envs
        check_names("policies", policies, POLICIES)
        counts = {"steps": self.steps, "seeds": self.seeds, "parameters": self.parameters}
        check_least({**counts, "threads": self.threads, "workers": self.workers})
        if self.target is not None and not 0 < self.target <= 1:
            raise UserError(f"--target: expected a share above 0 and up to 1, got {self.target:g}")
        for env in envs:
            _check_name(env)
        settings = replace(
            base,
            envs=tuple(dict.fromkeys(envs)),
            policies=tuple(name for name in POLICIES if name in policies),
            parameters=self.parameters,
            threads=self.threads,
            target=self.target,
        )
        if self.steps is not None:
            settings = replace(settings, steps=self.steps, eval_interval=max(1, self.steps // 5))
        return settings if self.seeds is None else replace(settings, seeds=tuple(range(self.seeds)))

    def _earlier(self, settings: Settings) -> Results | None:
        if self.overwrite or not self.out.exists():
            return None
        results = storage.read(self.out)
        # The target changes what is told, not what is measured.
        check_settings(self.out, replace(results.settings, target=settings.target), settings)
        results.settings = settings
        if self.retry:
            results.trainings = [row for row in results.trainings if not row.error]
            results.evaluations = [row for row in results.evaluations if not row.error]
        return results

    def _empty(self, settings: Settings) -> Results:
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        datasets = {env: self._dataset(env) for env in settings.envs}
        return Results(settings, _environment(), started, datasets, skipped(POLICIES, TRAININGS, settings.policies))

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

    def _check_data(self, results: Results) -> None:
        for env, dataset in results.datasets.items():
            if self._dataset(env) != dataset:
                raise UserError(
                    f"{self.out} was made with other data of {env} than {self.dataset_dir} has: choose another --out, "
                    "or --overwrite it"
                )


def _environment() -> Environment:
    """Of this process, with the versions of what episodes and diffusion are computed with."""
    environment = current_environment(torch.device("cpu"))
    versions = {name: metadata.version(name) for name in _LIBRARIES if find_spec(name) is not None}
    return replace(environment, versions=environment.versions | versions)


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


def _check_sizes(results: Results) -> None:
    for env, dataset in results.datasets.items():
        for training in trainings(results):
            try:
                config_of(results.settings, training, dataset)
            except ValueError as error:
                raise UserError(f"--parameters: {training.name} in {env}: {error}") from None


def _claim(runs: Path, started: str, overwrite: bool) -> None:
    """Make the folder of the runs these results' own, or find that it is.

    Raises:
        UserError: it has something else.
    """
    mark = runs / _MARK
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
        if not overwrite:
            raise UserError(f"{runs} has the runs of other results: choose another --run-dir, or --overwrite them")
        shutil.rmtree(runs)
    runs.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"started": started})
