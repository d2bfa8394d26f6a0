"""The one training loop of the offline agents."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.config import AgentConfig
from nfkern.algorithms.agents.optimization import Info
from nfkern.algorithms.agents.registry import AGENTS, load_agent
from nfkern.algorithms.data import BatchSampler, DeviceBatchSampler, DeviceDataset, TransitionDataset
from nfkern.algorithms.data.task_rewards import RELABEL_COLUMNS, with_task_rewards
from nfkern.algorithms.runs.claims import claim, release
from nfkern.algorithms.runs.folder import (
    checkpoint_label,
    drop_old_checkpoints,
    load_checkpoint,
    locked,
    save_checkpoint,
)
from nfkern.algorithms.runs.metrics import MetricLog
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training.data_parallel import World, local_device, world
from nfkern.algorithms.training.learner import Learner, Sampler, Streams
from nfkern.algorithms.training.preparation import (
    check_finite,
    check_fits,
    check_weights,
    evaluation_pool,
    introduction,
    start_from,
)
from nfkern.errors import UserError
from nfkern.host.interrupts import deferred_signals
from nfkern.host.progress import leave_out, progress_bar

if TYPE_CHECKING:
    from nfkern.algorithms.evaluation.rollout import EnvironmentPool


class Interrupted(Exception):  # noqa: N818 - not an error
    """Training stopped on request, with its state saved."""


@dataclass(frozen=True)
class _Run:
    """One seed's folder and log."""

    path: Path
    log: MetricLog


def train(algorithm: str, config: AgentConfig, settings: RunSettings) -> Path:
    """Train an agent on an offline dataset, with one seed or several.

    Args:
        algorithm: a name of `AGENTS`.
        config: its settings.
        settings: of the run.

    Returns:
        The run's folder: config.json, train.csv, eval.csv, tensorboard/, evaluations/, checkpoints/. Of several seeds,
        the folder that holds theirs.

    Raises:
        UserError: the dataset is missing, a folder holds another run, evaluations or tracking cannot work, or losses
            or weights are no longer finite.
        Interrupted: SIGINT or SIGTERM came; the newest checkpoint continues the run exactly.
    """
    run_dirs = settings.run_dirs(algorithm)
    settings.check_tracking()
    device = local_device(settings.torch_device())
    # Goals bring rewards of their own.
    needs_rewards = "rewards" in AGENTS[algorithm].batch_keys and not AGENTS[algorithm].goal_conditioned
    splits = {name: _load(settings, name, needs_rewards) for name in ("train", "val")}
    with world(device) as processes, contextlib.ExitStack() as locks:
        if processes.size > 1 and len(run_dirs) > 1:
            raise UserError("--seeds trains in one process; with torchrun, train seed by seed")
        if config.batch_size % processes.size:
            raise UserError(
                f"--batch-size: expected a multiple of the {processes.size} processes, got {config.batch_size}"
            )
        if processes.first:
            for run_dir in run_dirs.values():
                locks.enter_context(locked(run_dir))
        pool = locks.enter_context(evaluation_pool(settings)) if processes.first else None
        _train(run_dirs, algorithm, config, settings, splits, device, processes, pool)
    return next(iter(run_dirs.values())) if settings.seeds is None else next(iter(run_dirs.values())).parent


def _load(settings: RunSettings, split: str, needs_rewards: bool) -> TransitionDataset:
    where = settings.env_name, settings.dataset_dir
    # Of a file's columns only those are read that the algorithm learns from: others may hold anything.
    dataset = TransitionDataset.load(*where, split=split, rewards=needs_rewards)
    if needs_rewards and dataset.rewards is None:
        dataset = TransitionDataset.load(*where, split=split, rewards=False, extras=RELABEL_COLUMNS)
        dataset = with_task_rewards(dataset, settings.env_name)
    if split == "train" and settings.train_episodes is not None and settings.train_episodes < dataset.episodes:
        dataset = dataset.draw_episodes(settings.train_episodes)
    return dataset


def _train(
    run_dirs: Mapping[int, Path],
    algorithm: str,
    config: AgentConfig,
    settings: RunSettings,
    splits: Mapping[str, TransitionDataset],
    device: torch.device,
    processes: World,
    pool: "EnvironmentPool | None",
) -> None:
    """Start or continue the run of each seed."""
    if settings.cuda_graph and processes.size > 1:
        raise UserError("--cuda-graph: steps that several processes take together are not captured: leave it out")
    captured = settings.captures(device, AGENTS[algorithm].capturable and processes.size == 1)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    statistics = splits["train"].statistics()
    example = BatchSampler(splits["train"], **config.batches() | {"batch_size": 1}).sample()
    make_sampler = _sampler_maker(config, splits, device if captured else None)
    agents, streams = [], []
    for seed in run_dirs:
        torch.manual_seed(seed)
        agents.append(AGENTS[algorithm].create(config, example, statistics).to(device))
        if settings.init_from is not None:
            start_from(agents[-1], settings.init_from)
        samplers = {split: make_sampler(split, (seed, stream)) for stream, split in enumerate(splits)}
        streams.append(Streams(samplers, _generator_after_creation(seed, device)))
    if pool is not None:
        check_fits(agents[0], pool)
    # Only now, when nothing in the settings can be wrong any more, are the folders claimed.
    start = processes.agree(lambda: claim(run_dirs, algorithm, config, settings))
    if start:
        for index, path in enumerate(run_dirs.values()):
            agents[index] = _restore(path / "checkpoints" / f"{start:08d}", device, streams[index])
            agents[index].config = config
    learner = Learner(agents, streams, captured=captured, world=processes)
    with contextlib.ExitStack() as logs:
        runs = []
        try:
            for path in run_dirs.values() if processes.first else ():
                runs.append(_Run(path, MetricLog(path, start, settings)))
                logs.callback(runs[-1].log.close)
        except BaseException:
            # A tracker may have no network, or no account: the folder is left as if nothing had been asked for.
            release(run_dirs.values())
            raise
        if processes.first:
            data = splits["train"]
            source = f"data: {data.name}, {len(data):,} transitions in {data.episodes:,} episodes"
            place = (None, 1) if pool is None else (pool.name, len(pool.tasks))
            for line in introduction(agents[0], run_dirs, source, settings, *place):
                print(line, file=sys.stderr)
        _loop(learner, runs, start, settings, pool)


def _sampler_maker(
    config: AgentConfig, splits: Mapping[str, TransitionDataset], device: torch.device | None
) -> Callable[[str, tuple[int, int]], Sampler]:
    """Makes a sampler of a split from its seed: on the host, or on a device where all of them share the data."""
    batches = config.batches()
    if device is None:
        return lambda split, seed: BatchSampler(splits[split], **batches, seed=seed)
    data = {split: DeviceDataset(dataset, device) for split, dataset in splits.items()}
    return lambda split, seed: DeviceBatchSampler(data[split], **batches, seed=seed)


def _generator_after_creation(seed: int, device: torch.device) -> torch.Generator:
    """The generator of a seed's noise; on the CPU it goes on where the agent's initialisation has stopped."""
    generator = torch.Generator(device)
    if device.type == "cpu":
        return generator.set_state(torch.get_rng_state())
    return generator.manual_seed(seed)


def _restore(checkpoint: Path, device: torch.device, streams: Streams) -> Agent:
    agent, _, states = load_checkpoint(checkpoint, device, streams.generator)
    for name, state in states.items():
        try:
            streams.samplers[name].load_state_dict(state)
        except ValueError:
            raise UserError(
                f"{checkpoint} drew its batches elsewhere (on the host, or on a GPU): continue it with the same "
                "--device and --cuda-graph as before"
            ) from None
    return agent


def _loop(
    learner: Learner, runs: Sequence[_Run], step: int, settings: RunSettings, pool: "EnvironmentPool | None"
) -> None:
    log_interval = settings.log_every(learner.agents[0].config.steps)
    config, clock = learner.agents[0].config, time.perf_counter()
    name = learner.agents[0].name + (f" x {len(runs)} seeds" if len(runs) > 1 else "")
    hidden = settings.quiet or not learner.world.first
    bar = progress_bar(total=config.steps, initial=step, desc=name, unit="step", disable=hidden)
    with bar, deferred_signals() as signals:
        since, since_step = clock, step
        while True:
            # Of several processes, the first alone has runs to write to.
            for run, agent in zip(runs, learner.agents, strict=False):
                if pool is not None and _evaluation_due(step, settings, config.steps):
                    learner.synchronise()
                    # Its finished episodes are kept on the way, so an interruption may come through at once.
                    began = time.perf_counter()
                    with signals.immediate():
                        _evaluate(agent, step, run, settings, pool)
                    # The speeds of log and bar are those of training.
                    took = time.perf_counter() - began
                    since += took
                    leave_out(bar, took)
            if step >= config.steps:
                break
            info = _finite(learner.update, learner, step, runs)
            step += 1
            bar.update()
            if step % log_interval == 0 or step == config.steps:
                metrics = _by_seed("training", learner.world.mean(info))
                # After the metrics: fetching them waits for the device.
                now = time.perf_counter()
                speed = (step - since_step) / (now - since)
                times = {"time/steps_per_second": speed, "time/seconds": now - clock}
                rate = {"training/learning_rate": learner.learning_rate}
                checked = _by_seed("validation", _finite(learner.validate, learner, step, runs))
                for run, mine, validation in zip(runs, metrics, checked, strict=False):
                    check_finite(mine | validation, step, run.path)
                    run.log.train(step, mine | validation | rate | times)
                bar.set_postfix(loss=f"{np.mean([mine['training/actor/loss'] for mine in metrics]):.3f}", refresh=False)
                since, since_step = now, step
            intervals = (settings.checkpoint_interval, settings.eval_interval)
            stopped = learner.world.stops(signals.received, step)
            if step == config.steps or stopped or any(step % interval == 0 for interval in intervals):
                _save(learner, runs, step, settings.keep_checkpoints)
            if stopped:
                raise Interrupted(f"stopped at step {step} of {config.steps}; its checkpoint is saved")


def _finite(call: Callable[[], Info], learner: Learner, step: int, runs: Sequence[_Run]) -> Info:
    """What a call returns. A flow refuses weights that are not finite: the run then says so in its own words."""
    try:
        return call()
    except ValueError:
        learner.synchronise()
        for run, agent in zip(runs, learner.agents, strict=False):
            check_weights(agent, step, run.path)
        raise


def _by_seed(prefix: str, info: Info) -> list[dict[str, float]]:
    """Each seed's metrics, from those of all, (seeds,) or () for a single one."""
    columns = {f"{prefix}/{name}": values.reshape(-1).tolist() for name, values in info.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _save(learner: Learner, runs: Sequence[_Run], step: int, keep: int) -> None:
    """Checkpoint every seed; old ones go when all have the new one, so that there always is a step that all have."""
    learner.synchronise()
    for run, agent in zip(runs, learner.agents, strict=False):
        check_weights(agent, step, run.path)
    for run, agent, streams in zip(runs, learner.agents, learner.streams, strict=False):
        states = {name: sampler.state_dict() for name, sampler in streams.samplers.items()}
        save_checkpoint(run.path, step, agent, states, streams.generator)
    for run in runs:
        drop_old_checkpoints(run.path, keep)


def _evaluation_due(step: int, settings: RunSettings, steps: int) -> bool:
    return step > 0 and (step % settings.eval_interval == 0 or step == steps)


def _evaluate(agent: Agent, step: int, run: _Run, settings: RunSettings, pool: "EnvironmentPool") -> None:
    """Evaluate the checkpoint of a step, unless that has been done."""
    from nfkern.algorithms.evaluation.evaluate import evaluate, make_settings
    from nfkern.algorithms.runs.evaluations import evaluation_path, find_same

    checkpoint = run.path / "checkpoints" / f"{step:08d}"
    asked: dict[str, Any] = {
        "episodes_per_task": settings.eval_episodes,
        "seed": settings.eval_seed,
        "label": checkpoint_label(checkpoint),
    }
    wanted = make_settings(pool, **asked)
    if find_same(run.path, step, wanted) is not None:
        return
    path = evaluation_path(run.path, step, wanted)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial.jsonl")
    result = evaluate(
        agent if settings.eval_workers == 1 else functools.partial(load_agent, checkpoint),
        pool,
        workers=settings.eval_workers,
        progress_file=partial,
        progress=not settings.quiet,
        **asked,
    )
    result.save(path)
    partial.unlink()
    run.log.evaluation(step)
