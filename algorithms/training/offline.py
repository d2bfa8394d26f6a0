"""Training of the agents that learn from a dataset, with one seed or several."""

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.config import AgentConfig
from nfkern.algorithms.agents.optimization import Info
from nfkern.algorithms.agents.registry import AGENTS, load_policy
from nfkern.algorithms.data import BatchSampler, DeviceBatchSampler, DeviceDataset, TransitionDataset
from nfkern.algorithms.data.files import dataset_file, has_validation
from nfkern.algorithms.data.task_rewards import RELABEL_COLUMNS, with_task_rewards
from nfkern.algorithms.data.transitions import difference
from nfkern.algorithms.runs.checkpoint import Checkpoint
from nfkern.algorithms.runs.log import MetricLog
from nfkern.algorithms.runs.run import Run, released_on_error
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.runs.start import resume_or_start
from nfkern.algorithms.training.data_parallel import ProcessGroup, local_device, process_group
from nfkern.algorithms.training.learner import Learner, Sampler, Streams
from nfkern.algorithms.training.loop import Training, take_steps
from nfkern.algorithms.training.preparation import check_fits, evaluation_pool, introduction, start_from
from nfkern.errors import UserError
from nfkern.host.interrupts import Signals

if TYPE_CHECKING:
    from nfkern.algorithms.evaluation.rollout import EnvironmentPool


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
    runs = settings.runs(algorithm)
    settings.check_tracking()
    device = local_device(settings.torch_device())
    # A goal-conditioned agent gets its rewards from the goals.
    needs_rewards = "rewards" in AGENTS[algorithm].batch_keys and not AGENTS[algorithm].goal_conditioned
    validated = has_validation(settings.env_name, settings.dataset_dir)
    names = ("train", "val") if validated else ("train",)
    splits = {name: _load(settings, name, needs_rewards) for name in names}
    if validated and (problem := difference(splits["train"], splits["val"])):
        path = dataset_file(settings.env_name, settings.dataset_dir)
        raise UserError(f"{path} cannot be trained on with its validation file beside it: {problem}")
    with process_group(device) as processes, contextlib.ExitStack() as locks:
        if processes.size > 1 and len(runs) > 1:
            raise UserError("--seeds trains in one process; with torchrun, train seed by seed")
        if config.batch_size % processes.size:
            raise UserError(
                f"--batch-size: expected a multiple of the {processes.size} processes, got {config.batch_size}"
            )
        if processes.first:
            for run in runs.values():
                locks.enter_context(run.locked())
        pool = locks.enter_context(evaluation_pool(settings)) if processes.first else None
        _train(runs, algorithm, config, settings, splits, device, processes, pool)
    first = next(iter(runs.values())).path
    return first if settings.seeds is None else first.parent


def _load(settings: RunSettings, split: str, needs_rewards: bool) -> TransitionDataset:
    where = settings.env_name, settings.dataset_dir
    # Only the columns that the algorithm learns from are read: others may hold anything.
    dataset = TransitionDataset.load(*where, split=split, rewards=needs_rewards)
    if needs_rewards and dataset.rewards is None:
        dataset = TransitionDataset.load(*where, split=split, rewards=False, extras=RELABEL_COLUMNS)
        dataset = with_task_rewards(dataset, settings.env_name)
    if split == "train" and settings.train_episodes is not None and settings.train_episodes < dataset.episodes:
        dataset = dataset.draw_episodes(settings.train_episodes)
    return dataset


def _train(
    runs: Mapping[int, Run],
    algorithm: str,
    config: AgentConfig,
    settings: RunSettings,
    splits: Mapping[str, TransitionDataset],
    device: torch.device,
    processes: ProcessGroup,
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
    for seed in runs:
        torch.manual_seed(seed)
        agents.append(AGENTS[algorithm].create(config, example, statistics).to(device))
        if settings.init_from is not None:
            start_from(agents[-1], settings.init_from)
        samplers = {split: make_sampler(split, (seed, stream)) for stream, split in enumerate(splits)}
        streams.append(Streams(samplers, _generator_after_creation(seed, device)))
    if pool is not None:
        check_fits(agents[0], pool)
    # The folders are claimed only now, when all settings have been checked.
    start = processes.agree(lambda: resume_or_start(runs, algorithm, config, settings))
    # With several processes, only the first has runs to write to.
    written = list(runs.values()) if processes.first else []
    with released_on_error(written), contextlib.ExitStack() as stack:
        if start:
            for index, run in enumerate(runs.values()):
                agents[index] = _restore(run.checkpoint(start), device, streams[index])
                agents[index].config = config
        learner = Learner(agents, streams, captured=captured, processes=processes)
        logs = [stack.enter_context(contextlib.closing(MetricLog(run, start, settings))) for run in written]
        if processes.first:
            data = splits["train"]
            source = f"data: {data.name}, {len(data):,} transitions in {data.episodes:,} episodes"
            if "val" not in splits:
                missing = dataset_file(settings.env_name, split="val").name
                source += f"; no validation, for there is no {missing} beside it"
            place = (None, 1) if pool is None else (pool.name, len(pool.tasks))
            for line in introduction(agents[0], written, source, settings, *place):
                print(line, file=sys.stderr)
        take_steps(OfflineTraining(learner, logs, settings, pool, start), start)


def _sampler_maker(
    config: AgentConfig, splits: Mapping[str, TransitionDataset], device: torch.device | None
) -> Callable[[str, tuple[int, int]], Sampler]:
    """Return a function that makes a sampler of a split from its seed, on the host or on a device.

    On a device, all samplers share the data.
    """
    batches = config.batches()
    if device is None:
        return lambda split, seed: BatchSampler(splits[split], **batches, seed=seed)
    data = {split: DeviceDataset(dataset, device) for split, dataset in splits.items()}
    return lambda split, seed: DeviceBatchSampler(data[split], **batches, seed=seed)


def _generator_after_creation(seed: int, device: torch.device) -> torch.Generator:
    """Return the generator of a seed's noise; on the CPU it continues from the agent's initialisation."""
    generator = torch.Generator(device)
    if device.type == "cpu":
        return generator.set_state(torch.get_rng_state())
    return generator.manual_seed(seed)


def _restore(checkpoint: Checkpoint, device: torch.device, streams: Streams) -> Agent:
    agent, states = checkpoint.restore(device, streams.generator)
    # A run from before may have validated on the data that it learned from.
    for name, state in states.items():
        if name not in streams.samplers:
            continue
        try:
            streams.samplers[name].load_state_dict(state)
        except ValueError:
            raise UserError(
                f"{checkpoint.path} drew its batches elsewhere (on the host, or on a GPU): continue it with the same "
                "--device and --cuda-graph as before"
            ) from None
    return agent


class OfflineTraining(Training):
    """The training of one or several seeds on a dataset, as `take_steps` takes it.

    Args:
        learner: of all seeds.
        logs: of each seed's run; none in any process but the first.
        settings: of the runs.
        pool: the environments of the evaluations; None without these.
        start: the step from which the runs continue.
    """

    def __init__(
        self,
        learner: Learner,
        logs: Sequence[MetricLog],
        settings: RunSettings,
        pool: "EnvironmentPool | None",
        start: int,
    ) -> None:
        # The evaluation of the step resumed from may have been interrupted; it is not repeated if it is stored.
        evaluated = max(start - 1, 0)
        super().__init__(logs, settings, evaluates=pool is not None, evaluated=evaluated, processes=learner.processes)
        self._learner, self._pool, self._eval_workers = learner, pool, settings.eval_workers
        self._info: Info = {}

    @property
    def agents(self) -> Sequence[Agent]:
        """One agent for each seed."""
        return self._learner.agents

    def advance(self, step: int) -> int:
        """Take one gradient step."""
        self._info = self._learner.update()
        return 1

    def metrics(self) -> list[dict[str, float]]:
        """Return the newest step's metrics of each seed."""
        return _by_seed("training", self.processes.mean(self._info))

    def more_metrics(self) -> list[dict[str, float]]:
        """Return the validation's metrics of each seed, and the learning rate."""
        rate = {"training/learning_rate": self._learner.learning_rate}
        validation = self._learner.validate()
        return [row | rate for row in _by_seed("validation", validation)] if validation else [rate] * len(self.agents)

    def summary(self, rows: Sequence[dict[str, float]]) -> str:
        """Return the seeds' mean loss in words."""
        return f"loss={np.mean([row['training/actor/loss'] for row in rows]):.3f}"

    def synchronise(self) -> None:
        """Bring the agents to the state after the last step."""
        self._learner.synchronise()

    def save(self, step: int) -> None:
        """Write the checkpoint of each seed."""
        for log, agent, streams in zip(self.logs, self.agents, self._learner.streams, strict=False):
            states = {name: sampler.state_dict() for name, sampler in streams.samplers.items()}
            log.run.save_checkpoint(step, agent, states, streams.generator)

    def evaluate(self, step: int, signals: Signals) -> None:
        """Evaluate the checkpoint of each seed, unless that has been done."""
        self.synchronise()
        for log, agent in zip(self.logs, self.agents, strict=True):
            # The finished episodes are stored on the way.
            with signals.immediate():
                self._evaluate(log, agent, step)

    def _evaluate(self, log: MetricLog, agent: Agent, step: int) -> None:
        from nfkern.algorithms.evaluation.evaluate import make_settings

        assert self._pool is not None
        checkpoint, evaluations = log.run.checkpoint(step), log.run.evaluations
        wanted = make_settings(
            self._pool,
            episodes_per_task=self.settings.eval_episodes,
            seed=self.settings.eval_seed,
            label=checkpoint.label,
        )
        if evaluations.find_same(step, wanted) is not None:
            return
        policy = agent.freeze() if self._eval_workers == 1 else functools.partial(load_policy, checkpoint.path)
        progress = not self.settings.quiet
        evaluations.evaluate(step, policy, self._pool, wanted, workers=self._eval_workers, progress=progress)
        log.evaluation(step)


def _by_seed(prefix: str, info: Info) -> list[dict[str, float]]:
    """Return each seed's metrics from those of all, (seeds,) or () for a single one."""
    columns = {f"{prefix}/{name}": values.reshape(-1).tolist() for name, values in info.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
