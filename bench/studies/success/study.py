"""`nfkern bench success`: trainings, then evaluations of what they have left.

A training that was interrupted goes on from its checkpoint.
"""

import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.policy import Policy as ActingPolicy
from nfkern.algorithms.agents.registry import load_agent
from nfkern.algorithms.data import DEFAULT_DATASET_DIR, TransitionDataset
from nfkern.algorithms.data.manifest import DatasetFiles, Manifest
from nfkern.algorithms.data.recipes import data_name
from nfkern.algorithms.envs import imitation
from nfkern.algorithms.evaluation import evaluate as evaluation
from nfkern.algorithms.runs.checkpoint import Checkpoint
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training.offline import train
from nfkern.bench.core.environment import Environment
from nfkern.bench.core.timing import Budget
from nfkern.bench.studies import records
from nfkern.bench.studies.policies import Policy, Training
from nfkern.bench.studies.records import find
from nfkern.bench.studies.study import Piece, Study, attempt, chosen_names
from nfkern.bench.studies.success.policies import AT_THE_END, POLICIES, TRAININGS, config_of, untrained
from nfkern.bench.studies.success.records import Dataset, Evaluation, Latency, Results, Settings, Trained
from nfkern.bench.studies.success.report import DEFAULT, REPORT, TRANSITIONS
from nfkern.errors import UserError, check_least
from nfkern.host.files import write_json

BATCHES = (1, 50)
"""Numbers of observations of the times of acting: one robot, and the episodes of a usual evaluation."""

_LIBRARIES = ("ogbench", "mujoco", "gymnasium", "diffusers")
_MARK = "study.json"


@dataclass(frozen=True)
class Success(Study[Results]):
    """Train goal-conditioned policies as `nfkern train` does; say what they reach in the simulator and at which cost.

    Flow, Gaussian, flow matching and diffusion learn from the same data in as many gradient steps; measured are success
    on the way and at the end, training speed, seconds of training to a given success, and the time of an action. About
    an hour on two cores, a quarter of it for the episodes of diffusion with 100 steps. Everything is in the file as
    soon as it is done, and trainings have checkpoints: after Ctrl-C, the same command goes on.
    """

    report = REPORT
    trainings = TRAININGS
    latency = Latency
    acting = Budget(warmup_s=0.1, measure_s=0.5, min_repeats=11, limit_s=5.0)
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

    def prepare(self, results: Results) -> None:
        """Refuse other data, impossible sizes and a folder of other runs; the file is there before its runs."""
        for env, dataset in results.datasets.items():
            if self._dataset(env) != dataset:
                raise UserError(
                    f"{self.out} was made with other data of {env} than {self.dataset_dir} has: choose another --out, "
                    "or --overwrite it"
                )
            for training in self.trained(results):
                try:
                    self._config(results, env, training)
                except ValueError as error:
                    raise UserError(f"--parameters: {training.name} in {env}: {error}") from None
        self._claim_runs(results.started)
        records.write(self.out, results)

    def work(self, results: Results) -> Iterator[Piece]:
        """Yield trainings, each with its evaluations, a whole seed before the next."""
        settings, trained = results.settings, self.trained(results)
        for seed, env, (training, policies) in product(settings.seeds, settings.envs, trained.items()):
            found = find(results.trainings, env=env, training=training.name, seed=seed)
            if not found:
                run = partial(self._train, results, env, training, seed)
                yield Piece(f"{env}: training {training.name}, seed {seed}", run)
            elif found[0].error:
                continue
            for policy in policies:
                before = () if policy.name in AT_THE_END else settings.steps_on_the_way
                for step in (*before, settings.steps):
                    if not find(results.evaluations, env=env, policy=policy.name, seed=seed, step=step):
                        run = partial(self._evaluate, results, env, training, policy, seed, step)
                        yield Piece(f"{env}: evaluating {policy.name} after {step} steps, seed {seed}", run)

    def untrained(self, results: Results, condition: str, training: Training) -> BehavioralCloning:
        """Return an agent for the environment's data."""
        return untrained(training, self._config(results, condition, training), results.datasets[condition])

    def inputs(self, results: Results, condition: str) -> list[tuple[Any, ...]]:
        """Return observations and goals of the data's size."""
        random, size = np.random.default_rng(0), results.datasets[condition].observation_size
        drawn = (random.standard_normal((batch, 1, size), dtype=np.float32) for batch in BATCHES)
        return [(observations, observations[:, 0]) for observations in drawn]

    def _train(self, results: Results, env: str, training: Training, seed: int) -> None:
        """Train with the loop of `nfkern train`, which leaves its log and a checkpoint for each evaluation."""
        settings, run = results.settings, self._run(env, training, seed)
        asked = RunSettings(
            env,
            seed=seed,
            run_dir=run.path,
            resume=True,
            device="cpu",
            threads=settings.threads,
            log_interval=settings.log_interval,
            checkpoint_interval=settings.eval_interval,
            keep_checkpoints=settings.steps // settings.eval_interval + 1,
            eval_episodes=0,
            dataset_dir=self.dataset_dir.expanduser(),
        )

        def trained() -> Trained:
            train(training.agent.name, self._config(results, env, training), asked)
            agent = cast(BehavioralCloning, load_agent(_checkpoint(run, settings.steps).path))
            return Trained(env, training.name, seed, training.count_parameters(agent)[0], *speed(run))

        found, error = attempt(trained)
        results.trainings.append(found or Trained(env, training.name, seed, error=error))

    def _evaluate(self, results: Results, env: str, training: Training, policy: Policy, seed: int, step: int) -> None:
        """Evaluate a policy from a checkpoint, as `nfkern eval` does."""
        if not find(results.trainings, env=env, training=training.name, seed=seed, error=None):
            return
        settings, run = results.settings, self._run(env, training, seed)
        episodes = settings.final_episodes if step == settings.steps else settings.eval_episodes
        checkpoint = _checkpoint(run, step)
        # Finished episodes are kept on the way, so that an interruption loses few.
        partial_file = run.path / "evaluations" / f"{step:08d}-{policy.name}.partial.jsonl"

        def successes() -> tuple[int, ...]:
            result = evaluation.evaluate(
                partial(load_policy, checkpoint.path, policy.name),
                env,
                episodes_per_task=episodes,
                workers=self.workers,
                progress_file=partial_file,
                label=f"{policy.name} {checkpoint.label}",
            )
            return tuple(task.successes for task in result.by_task())

        found, error = attempt(successes)
        results.evaluations.append(Evaluation(env, policy.name, seed, step, episodes, found or (), error))
        if not error:
            partial_file.unlink()

    def environment(self) -> Environment:
        """Return the machine, with the versions of what episodes and diffusion are computed with."""
        environment = super().environment()
        versions = {name: metadata.version(name) for name in _LIBRARIES if find_spec(name) is not None}
        return replace(environment, versions=environment.versions | versions)

    def _config(self, results: Results, env: str, training: Training) -> Any:
        acting = self.trained(results)[training][0].acting
        return config_of(results.settings, training, acting, results.datasets[env])

    def _run(self, env: str, training: Training, seed: int) -> Run:
        return Run(self._runs / env / training.name / f"seed-{seed}")

    @property
    def _runs(self) -> Path:
        return self.run_dir or self.out.with_suffix(".runs")

    def _claim_runs(self, started: str) -> None:
        """Make the folder of the runs these results' own, or find that it is, or refuse it."""
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


def speed(run: Run) -> tuple[float, float]:
    """Median steps per second over the rows of a training's log, and the seconds of all steps together."""
    rows = [(int(row["step"]), float(row["time/steps_per_second"])) for row in run.rows("train.csv")]
    steps = np.diff([0, *(step for step, _ in rows)])
    speeds = [each for _, each in rows]
    return statistics.median(speeds), float(np.sum(steps / speeds))


def load_policy(checkpoint: Path, policy: str) -> ActingPolicy:
    """Return a checkpoint frozen for a policy's way to act."""
    return POLICIES[policy].acting_agent(cast(BehavioralCloning, load_agent(checkpoint))).freeze()


def _checkpoint(run: Run, step: int) -> Checkpoint:
    checkpoint = run.checkpoint(step)
    if not checkpoint.path.exists():
        raise UserError(f"{checkpoint.path} is gone: start the study anew with --overwrite")
    return checkpoint


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
