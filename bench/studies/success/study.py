"""The study in pieces of work: times of acting, trainings, evaluations of what they have left.

A piece that is in the results already is not done again; a training that was interrupted goes on from its checkpoint.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.registry import load_agent
from nfkern.algorithms.evaluation import evaluate as evaluation
from nfkern.algorithms.evaluation.result import EvaluationResult
from nfkern.algorithms.runs.checkpoint import Checkpoint
from nfkern.algorithms.runs.run import Run
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training.loop import Interrupted
from nfkern.algorithms.training.offline import train
from nfkern.bench.core.timing import Budget, interleaved, num_threads, stopwatch_for
from nfkern.bench.studies.policies import Policy, Training, acting_agent, count_parameters
from nfkern.bench.studies.success.policies import AT_THE_END, POLICIES, TRAININGS, config_of, of_training, untrained
from nfkern.bench.studies.success.records import Evaluation, Latency, Results, Trained
from nfkern.errors import UserError

BATCHES = (1, 50)
"""Of the times of acting: one robot, and the episodes of a usual evaluation."""

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


@dataclass(frozen=True)
class Piece:
    """A piece of work: its name, and what does it and adds to the results."""

    name: str
    run: Callable[[], None]


def pieces(results: Results, place: Place) -> Iterator[Piece]:
    """What the results lack: times of acting first, then each training with its evaluations, seed after seed."""
    settings = results.settings
    for env in settings.envs:
        if not any(row.env == env for row in results.latencies):
            yield Piece(f"{env}: times of acting", partial(_time, results, env))
    for seed in settings.seeds:
        for env in settings.envs:
            for training in trainings(results):
                row = _trained(results, env, training, seed)
                if row is None:
                    name = f"{env}: training {training.name}, seed {seed}"
                    yield Piece(name, partial(_train, results, place, env, training, seed))
                if row is None or row.error is None:
                    yield from _evaluations(results, place, env, training, seed)


def trainings(results: Results) -> list[Training]:
    """What the policies that can run here need, each once."""
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
    for batch in BATCHES:
        observations = random.standard_normal((batch, 1, dataset.observation_size), dtype=np.float32)
        calls = {name: [partial(agent.act, observations, observations[:, 0])] for name, agent in agents.items()}
        with num_threads(1):
            times = interleaved(calls, ACTING, stopwatch_for(torch.device("cpu")))
        results.latencies += [Latency(env, name, batch, found) for name, found in times.items()]


def _train(results: Results, place: Place, env: str, training: Training, seed: int) -> None:
    """Train with the loop of `nfkern train`, and take from the run what its log and its evaluations say."""
    settings, run = results.settings, place.run(env, training, seed)
    on_the_way = [policy for policy in of_training(settings, training) if policy.name not in AT_THE_END]
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
            # What other policies of the training are evaluated from.
            keep_checkpoints=settings.steps // settings.eval_interval + 1 if len(on_the_way) > 1 else 1,
            eval_interval=settings.eval_interval,
            eval_episodes=settings.eval_episodes if on_the_way else 0,
            dataset_dir=place.data,
            eval_workers=place.workers,
        )
        train(training.agent.name, config, asked)
        agent = cast(BehavioralCloning, load_agent(_checkpoint(run, settings.steps).path))
        parameters, _ = count_parameters(training, agent)
        found = _on_the_way(results, env, on_the_way[0], seed, run) if on_the_way else []
        row = Trained(env, training.name, seed, parameters, *speed(run))
    except (Interrupted, UserError):
        raise
    except Exception as error:
        row, found = Trained(env, training.name, seed, error=_words(error)), []
    results.trainings.append(row)
    results.evaluations += found


def _on_the_way(results: Results, env: str, policy: Policy, seed: int, run: Run) -> list[Evaluation]:
    """The training loop's own evaluations; the last one too where it has as many episodes as the study wants."""
    settings = results.settings
    last = (settings.steps,) if settings.eval_episodes == settings.final_episodes else ()
    steps = (*settings.steps_on_the_way, *last)
    found = [run.evaluations.find(step, seed=0, episodes_per_task=settings.eval_episodes) for step in steps]
    return [_row(env, policy, seed, step, entry[1]) for step, entry in zip(steps, found, strict=True) if entry]


def _evaluations(results: Results, place: Place, env: str, training: Training, seed: int) -> Iterator[Piece]:
    """Those that the training loop does not make: of the training's other policies, and the last one of all."""
    settings = results.settings
    done = {(row.policy, row.step) for row in results.evaluations if (row.env, row.seed) == (env, seed)}
    for index, policy in enumerate(of_training(settings, training)):
        at_the_end = policy.name in AT_THE_END
        theirs = index == 0 and not at_the_end
        steps = () if theirs or at_the_end else settings.steps_on_the_way
        if not (theirs and settings.eval_episodes == settings.final_episodes):
            steps = (*steps, settings.steps)
        for step in steps:
            if (policy.name, step) not in done:
                name = f"{env}: evaluating {policy.name} after {step} steps, seed {seed}"
                yield Piece(name, partial(_evaluate, results, place, env, training, policy, seed, step))


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
        results.evaluations.append(Evaluation(env, policy.name, seed, step, episodes, error=_words(error)))
        return
    results.evaluations.append(_row(env, policy, seed, step, result))
    partial_file.unlink()


def _row(env: str, policy: Policy, seed: int, step: int, result: EvaluationResult) -> Evaluation:
    successes = tuple(task.successes for task in result.by_task())
    return Evaluation(env, policy.name, seed, step, result.settings.episodes_per_task, successes)


def _checkpoint(run: Run, step: int) -> Checkpoint:
    checkpoint = run.checkpoint(step)
    if not checkpoint.path.exists():
        raise UserError(f"{checkpoint.path} is gone: start the study anew with --overwrite")
    return checkpoint


def _trained(results: Results, env: str, training: Training, seed: int) -> Trained | None:
    wanted = (env, training.name, seed)
    return next((row for row in results.trainings if (row.env, row.training, row.seed) == wanted), None)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
