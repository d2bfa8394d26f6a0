"""Evaluation in the simulator: a fixed quota per task, reproducible, resumable, the same for any number of workers."""

import contextlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import cast

from tqdm import tqdm

from nfkern.algorithms.agents.policy import Policy
from nfkern.algorithms.envs import imitation
from nfkern.algorithms.envs.make import SuccessTiming
from nfkern.algorithms.evaluation.blocks import Loader, run_here, run_in_workers
from nfkern.algorithms.evaluation.progress import BlockResult, ProgressFile
from nfkern.algorithms.evaluation.result import Block, EvaluationResult, EvaluationSettings, Trajectory
from nfkern.algorithms.evaluation.rollout import EnvironmentPool, Episode

__all__ = ["EnvironmentPool", "EvaluationResult", "EvaluationSettings", "Loader", "Policy", "evaluate", "make_settings"]

# Libraries that policies and simulations are computed with, and the simulators of OGBench.
LIBRARIES = ("torch", "numpy", "gymnasium")
SIMULATORS = ("ogbench", "mujoco")


def evaluate(
    policy: Policy | Loader,
    env: str | EnvironmentPool,
    *,
    episodes_per_task: int = 50,
    tasks: Sequence[int] | None = None,
    seed: int = 0,
    workers: int = 1,
    block_size: int = 25,
    max_episode_steps: int | None = None,
    success_timing: SuccessTiming | None = None,
    record: str | None = None,
    progress_file: Path | None = None,
    label: str = "",
    progress: bool = True,
) -> EvaluationResult:
    """Run the same number of episodes of every task and count successes.

    The unit of work is a block: consecutive episodes of one task, stepped in lockstep in one process, with one
    decision for all of them, one thread for torch and a generator seeded by (seed, task, block). Workers only share
    out blocks, so their number does not change a bit of the result. Starts and goals depend on (seed, task, episode)
    alone: two policies evaluated with one seed can be compared episode by episode.

    Args:
        policy: a policy in memory, or a function without arguments that loads one; with several workers the latter,
            and picklable (a `functools.partial` of a module's function will do).
        env: dataset or environment name, or a pool to be used again by the next evaluation.
        episodes_per_task: the quota; no task gets more for having short episodes.
        tasks: task numbers, from 1; None for all.
        seed: fixes starts, goals and the policy's randomness.
        workers: processes; 1 evaluates in this one.
        block_size: episodes in lockstep. Part of the result's identity: it is the batch that the policy sees.
        max_episode_steps: ends episodes early, in steps; None for the benchmark's own limit, or the pool's.
        success_timing: as for `make_environment`; None for the environment's own, or the pool's.
        record: "xy" to keep each episode's path (the observation's first two numbers).
        progress_file: finished blocks are appended here as they come, and those already there are not run again. Delete
            it once the result is stored.
        label: names the policy in the result and the progress file, for instance by its checkpoint's hash.
        progress: show a bar, if stderr is a terminal.

    Returns:
        The episodes, ordered by task and number.

    Raises:
        ValueError: an argument that does not fit; the message names it.
        UserError: an unknown environment, a progress file of another evaluation, or a worker that died.
    """
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    loader = policy if not hasattr(policy, "act") else None
    if workers > 1:
        _check_loader(loader)
    with _pool(env, max_episode_steps, success_timing) as pool:
        settings = make_settings(
            pool,
            episodes_per_task=episodes_per_task,
            tasks=tasks,
            seed=seed,
            block_size=block_size,
            record=record,
            label=label,
        )
        done: dict[Block, BlockResult] = {}
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(ProgressFile(progress_file, settings)) if progress_file else None
            if file:
                done.update(file.finished)
            todo = [block for block in settings.blocks() if block not in done]
            total = len(settings.tasks) * episodes_per_task
            bar = stack.enter_context(_bar(total, sum(block.episodes for block in done), shown=progress))
            if workers > 1 and len(todo) > 1:
                results = run_in_workers(cast(Loader, loader), settings, todo, workers, bar)
            else:
                results = run_here(policy, pool, settings, todo, bar)
            # Closing runs the generator's clean-up now, also when this loop is left by an exception.
            for block, result in stack.enter_context(contextlib.closing(results)):
                done[block] = result
                if file:
                    file.append(block, result)
        return _assemble(settings, pool, done)


def make_settings(
    pool: EnvironmentPool,
    *,
    episodes_per_task: int = 50,
    tasks: Sequence[int] | None = None,
    seed: int = 0,
    block_size: int = 25,
    record: str | None = None,
    label: str = "",
) -> EvaluationSettings:
    """Return the settings that `evaluate` stores for the same arguments and the libraries installed now.

    Raises:
        ValueError: an argument that does not fit; the message names it.
    """
    if episodes_per_task < 1 or block_size < 1:
        raise ValueError(
            f"episodes_per_task, block_size: expected at least 1, got {episodes_per_task} and {block_size}"
        )
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    if record not in (None, "xy"):
        raise ValueError(f'record: expected None or "xy", got {record!r}')
    libraries = (*LIBRARIES, *(imitation.packages(pool.name) or SIMULATORS))
    return EvaluationSettings(
        env_name=pool.name,
        tasks=_check_tasks(tasks, pool),
        episodes_per_task=episodes_per_task,
        seed=seed,
        block_size=block_size,
        max_episode_steps=pool.max_episode_steps,
        success_timing=pool.success_timing,
        record=record,
        label=label,
        versions={name: importlib.metadata.version(name) for name in libraries},
    )


def _assemble(settings: EvaluationSettings, pool: EnvironmentPool, done: dict[Block, BlockResult]) -> EvaluationResult:
    episodes: list[Episode] = []
    trajectories: dict[tuple[int, int], Trajectory] = {}
    for block in settings.blocks():
        episodes.extend(done[block].episodes)
        for episode, trajectory in zip(done[block].episodes, done[block].trajectories, strict=False):
            trajectories[episode.task_id, episode.episode] = trajectory
    names = {task: pool.task_names[task] for task in settings.tasks}
    return EvaluationResult(settings, tuple(episodes), names, trajectories)


@contextlib.contextmanager
def _pool(
    env: str | EnvironmentPool, max_episode_steps: int | None, success_timing: SuccessTiming | None
) -> Iterator[EnvironmentPool]:
    """Yield the caller's pool, left open, or a new one, closed afterwards."""
    if isinstance(env, EnvironmentPool):
        if max_episode_steps not in (None, env.max_episode_steps):
            raise ValueError(f"max_episode_steps: the pool has {env.max_episode_steps}, got {max_episode_steps}")
        if success_timing not in (None, env.success_timing):
            raise ValueError(f"success_timing: the pool has {env.success_timing}, got {success_timing!r}")
        yield env
        return
    pool = EnvironmentPool(env, max_episode_steps=max_episode_steps, success_timing=success_timing)
    try:
        yield pool
    finally:
        pool.close()


def _bar(total: int, initial: int, *, shown: bool) -> "tqdm[None]":
    return tqdm(total=total, initial=initial, desc="evaluating", unit="ep", disable=None if shown else True)


def _check_tasks(tasks: Sequence[int] | None, pool: EnvironmentPool) -> tuple[int, ...]:
    chosen = pool.tasks if tasks is None else tuple(tasks)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(pool.tasks):
        raise ValueError(f"tasks: {pool.name} has the tasks {pool.tasks}, each at most once; got {chosen}")
    return chosen


def _check_loader(loader: object) -> None:
    if loader is None:
        raise ValueError("policy: several workers need a function that loads it, got a policy in memory")
    try:
        ForkingPickler.dumps(loader)
    except Exception as error:
        raise ValueError(
            f"policy: several workers need a loader that can be pickled (a module's function), got {loader!r}"
        ) from error
