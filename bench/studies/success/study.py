"""The study in pieces of work: times of acting, trainings, evaluations of what they have left.

A piece that is in the results already is not done again; a training that was interrupted goes on from its checkpoint.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.registry import load_agent
from nfkern.algorithms.evaluation import evaluate as evaluation
from nfkern.algorithms.runs.checkpoint import Checkpoint
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training.loop import Interrupted
from nfkern.algorithms.training.offline import train
from nfkern.bench.core.timing import Budget
from nfkern.bench.studies.command import Piece, described_error
from nfkern.bench.studies.policies import Policy, Training, acting_agent, count_parameters, time_acting
from nfkern.bench.studies.success.policies import AT_THE_END, POLICIES, TRAININGS, config_of, of_training, untrained
from nfkern.bench.studies.success.records import Evaluation, Latency, Results, Trained
from nfkern.errors import UserError

BATCHES = (1, 50)
"""Batches of the times of acting: one robot, and the episodes of a usual evaluation."""

ACTING = Budget(warmup_s=0.1, measure_s=0.5, min_repeats=11, limit_s=5.0)


@dataclass(frozen=True)
class Place:
    """Where the study works: folders of its runs and of the data, and the processes of an evaluation."""

    runs: Path
    data: Path
    workers: int = 1

    def run(self, env: str, training: Training, seed: int) -> Run:
        """The run of a training."""
        return Run(self.runs / env / training.name / f"seed-{seed}")


def pieces(results: Results, place: Place) -> Iterator[Piece]:
    """Yield the work that the results lack: times of acting first, then trainings, each with its evaluations."""
    settings = results.settings
    for env in settings.envs:
        if not any(row.env == env for row in results.latencies):
            yield Piece(f"{env}: times of acting", partial(_time, results, env))
    done = {(row.env, row.policy, row.seed, row.step) for row in results.evaluations}
    for seed in settings.seeds:
        for env in settings.envs:
            for training in trainings(results):
                row = _trained(results, env, training, seed)
                if row is None:
                    name = f"{env}: training {training.name}, seed {seed}"
                    yield Piece(name, partial(_train, results, place, env, training, seed))
                if row is not None and row.error:
                    continue
                for policy in of_training(settings, training):
                    at_the_end = policy.name in AT_THE_END
                    for step in (settings.steps,) if at_the_end else (*settings.steps_on_the_way, settings.steps):
                        if (env, policy.name, seed, step) not in done:
                            name = f"{env}: evaluating {policy.name} after {step} steps, seed {seed}"
                            run = partial(_evaluate, results, place, env, training, policy, seed, step)
                            yield Piece(name, run)


def trainings(results: Results) -> list[Training]:
    """Return the trainings of the policies that can run here, each once."""
    names = (POLICIES[name].training for name in results.settings.policies if name not in results.skipped)
    return [TRAININGS[name] for name in dict.fromkeys(names)]


def speed(run: Run) -> tuple[float, float]:
    """Median steps per second over the rows of a training's log, and the seconds of all steps together."""
    rows = [(int(row["step"]), float(row["time/steps_per_second"])) for row in run.rows("train.csv")]
    steps = np.diff([0, *(step for step, _ in rows)])
    speeds = [each for _, each in rows]
    return statistics.median(speeds), float(np.sum(steps / speeds))


def load_policy(checkpoint: Path, policy: str) -> BehavioralCloning:
    """An agent with a checkpoint's weights and a policy's way to act."""
    return acting_agent(POLICIES[policy], cast(BehavioralCloning, load_agent(checkpoint)))


def _time(results: Results, env: str) -> None:
    """Policies take turns; their weights are untrained, which changes no time."""
    dataset = results.datasets[env]
    agents: dict[str, BehavioralCloning] = {}
    for training in trainings(results):
        agent = untrained(training, config_of(results.settings, training, dataset), dataset)
        agents |= {policy.name: acting_agent(policy, agent) for policy in of_training(results.settings, training)}
    random = np.random.default_rng(0)
    drawn = [random.standard_normal((batch, 1, dataset.observation_size), dtype=np.float32) for batch in BATCHES]
    inputs = [(observations, observations[:, 0]) for observations in drawn]
    results.latencies += [Latency(env, *found) for found in time_acting(agents, inputs, ACTING)]


def _train(results: Results, place: Place, env: str, training: Training, seed: int) -> None:
    """Train with the loop of `nfkern train`, which leaves its log and a checkpoint for each evaluation."""
    settings, run = results.settings, place.run(env, training, seed)
    try:
        config = config_of(settings, training, results.datasets[env])
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
            dataset_dir=place.data,
        )
        train(training.agent.name, config, asked)
        agent = cast(BehavioralCloning, load_agent(_checkpoint(run, settings.steps).path))
        parameters, _ = count_parameters(training, agent)
        row = Trained(env, training.name, seed, parameters, *speed(run))
    except (Interrupted, UserError):
        raise
    except Exception as error:
        row = Trained(env, training.name, seed, error=described_error(error))
    results.trainings.append(row)


def _evaluate(
    results: Results, place: Place, env: str, training: Training, policy: Policy, seed: int, step: int
) -> None:
    """Evaluate a policy from a checkpoint, as `nfkern eval` does."""
    trained = _trained(results, env, training, seed)
    if trained is None or trained.error:
        return
    settings, run = results.settings, place.run(env, training, seed)
    episodes = settings.final_episodes if step == settings.steps else settings.eval_episodes
    checkpoint = _checkpoint(run, step)
    # Finished episodes are kept on the way, so that an interruption loses few.
    partial_file = run.path / "evaluations" / f"{step:08d}-{policy.name}.partial.jsonl"
    try:
        result = evaluation.evaluate(
            partial(load_policy, checkpoint.path, policy.name),
            env,
            episodes_per_task=episodes,
            workers=place.workers,
            progress_file=partial_file,
            label=f"{policy.name} {checkpoint.label}",
        )
    except UserError:
        raise
    except Exception as error:
        results.evaluations.append(Evaluation(env, policy.name, seed, step, episodes, error=described_error(error)))
        return
    successes = tuple(task.successes for task in result.by_task())
    results.evaluations.append(Evaluation(env, policy.name, seed, step, episodes, successes))
    partial_file.unlink()


def _checkpoint(run: Run, step: int) -> Checkpoint:
    checkpoint = run.checkpoint(step)
    if not checkpoint.path.exists():
        raise UserError(f"{checkpoint.path} is gone: start the study anew with --overwrite")
    return checkpoint


def _trained(results: Results, env: str, training: Training, seed: int) -> Trained | None:
    wanted = (env, training.name, seed)
    return next((row for row in results.trainings if (row.env, row.training, row.seed) == wanted), None)
