"""Running an evaluation's blocks, in this process or in several, with the same outcome."""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import NamedTuple, cast

import numpy as np
import torch
from tqdm import tqdm

from nfkern.algorithms.agents.policy import Policy
from nfkern.algorithms.envs.make import PinnedTask
from nfkern.algorithms.evaluation.progress import BlockResult
from nfkern.algorithms.evaluation.result import Block, EvaluationSettings, Trajectory
from nfkern.algorithms.evaluation.rollout import EnvironmentPool, Episode, run_block
from nfkern.errors import UserError
from nfkern.host.interrupts import uninterrupted

Loader = Callable[[], Policy]
Results = Generator[tuple[Block, BlockResult], None, None]


def _loaded(policy: Policy | Loader) -> Policy:
    """Return the policy itself, or the one that the loader loads."""
    return cast(Policy, policy) if hasattr(policy, "act") else policy()


def run_here(
    policy: Policy | Loader, pool: EnvironmentPool, settings: EvaluationSettings, todo: list[Block], bar: "tqdm[None]"
) -> Results:
    """Yield each block with its result, in order."""
    policy = _loaded(policy) if todo else policy
    successes = 0

    def finished(episode: Episode) -> None:
        nonlocal successes
        successes += episode.success
        bar.update()
        bar.set_postfix(successes=successes)

    for block in todo:
        yield block, run_isolated(cast(Policy, policy), pool, settings, block, finished)


def run_in_workers(
    loader: Loader, settings: EvaluationSettings, todo: list[Block], workers: int, bar: "tqdm[None]"
) -> Results:
    """Yield each block with its result, as the worker processes finish them."""
    context = multiprocessing.get_context("spawn")
    # The workers hold the reading end and leave when the writing end is closed: on an interrupt at once, and also when
    # this process is killed.
    lifeline, our_end = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=context, initializer=_start_worker, initargs=(loader, settings, lifeline)
    )
    successes = 0
    try:
        with _interrupts_held():
            futures = {executor.submit(_run_in_worker, block): block for block in todo}
        for future in as_completed(futures):
            result = future.result()
            successes += sum(episode.success for episode in result.episodes)
            bar.update(len(result.episodes))
            bar.set_postfix(successes=successes)
            yield futures[future], result
        executor.shutdown()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed (out of memory?); what is finished is kept in the progress file, if there is "
            "one: run again, with fewer workers or a smaller block size"
        ) from error
    finally:
        our_end.close()
        executor.shutdown(cancel_futures=True)
        lifeline.close()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while processes start: it would end half-started ones in a traceback and break the pool."""
    # Starting the tracker would unblock signals.
    resource_tracker.ensure_running()
    with uninterrupted(signal.SIGINT):
        # New processes inherit this; in this one, other threads may still get the signal.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker(NamedTuple):
    policy: Policy
    pool: EnvironmentPool
    settings: EvaluationSettings


_start: Callable[[], _Worker] | None = None


def _start_worker(loader: Loader, settings: EvaluationSettings, lifeline: Connection) -> None:
    def leave_with_parent() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        os._exit(1)

    global _start
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with_parent, daemon=True).start()
    # Loading waits for the first block, so that its errors reach the parent.
    _start = functools.cache(lambda: _Worker(loader(), settings.pool(), settings))


def _run_in_worker(block: Block) -> BlockResult:
    assert _start is not None
    worker = _start()
    return run_isolated(worker.policy, worker.pool, worker.settings, block)


def run_isolated(
    policy: Policy,
    pool: EnvironmentPool,
    settings: EvaluationSettings,
    block: Block,
    finished: Callable[[Episode], None] | None = None,
) -> BlockResult:
    """Run a block with one thread, leaving torch's thread count and numpy's global generator as they were."""
    paths: dict[int, list[np.ndarray]] = {}
    goals: dict[int, np.ndarray | None] = {}

    def observe(episode: int, environment: PinnedTask, observation: np.ndarray) -> None:
        paths.setdefault(episode, []).append(np.array(observation[:2], dtype=np.float32))
        goals[episode] = environment.goal

    threads = torch.get_num_threads()
    # The whole state: the wrapper's exchange of generators drops a cached Gaussian.
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    torch.set_num_threads(1)
    try:
        episodes = run_block(
            policy,
            pool.take(block.episodes),
            task_id=block.task_id,
            first_episode=block.first_episode,
            seed=settings.seed,
            observe=observe if settings.record else None,
            finished=finished,
        )
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(state)  # noqa: NPY002
    nowhere = np.full(2, np.nan, dtype=np.float32)
    trajectories = [
        Trajectory(np.stack(path), nowhere if goals[episode] is None else np.array(goals[episode])[:2])
        for episode, path in sorted(paths.items())
    ]
    return BlockResult(episodes, trajectories)
