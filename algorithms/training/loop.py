"""The training loop of all agents: steps, logs, checkpoints and evaluations, until the last step or a signal."""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.runs.log import MetricLog
from nfkern.algorithms.runs.settings import CommonSettings
from nfkern.algorithms.training.data_parallel import ProcessGroup
from nfkern.algorithms.training.finite import check_finite, check_weights
from nfkern.host.interrupts import Signals, deferred_signals
from nfkern.host.progress import leave_out, progress_bar


class Interrupted(Exception):  # noqa: N818 - not an error
    """Training stopped on request, with its state saved."""


class Training(ABC):
    """One or several agents that are trained together, step by step; each has a run of its own.

    Args:
        logs: of each agent's run; none in any process but the first.
        settings: of the runs.
        processes: that take the steps together.

    Attributes:
        evaluates: whether there are evaluations.
        evaluated: the newest step whose evaluation is not due any more.
    """

    def __init__(
        self,
        logs: Sequence[MetricLog],
        settings: CommonSettings,
        *,
        evaluates: bool,
        evaluated: int,
        processes: ProcessGroup | None = None,
    ) -> None:
        self.logs, self.settings, self.processes = logs, settings, processes or ProcessGroup()
        self.evaluates, self.evaluated = evaluates, evaluated

    @property
    @abstractmethod
    def agents(self) -> Sequence[Agent]:
        """The agents, in the order of their logs."""

    @abstractmethod
    def advance(self, step: int) -> int:
        """Take the gradient steps that follow a step; return how many."""

    @abstractmethod
    def metrics(self) -> list[dict[str, float]]:
        """Return the newest step's metrics of each agent; fetching them waits for the device."""

    @abstractmethod
    def more_metrics(self) -> list[dict[str, float]]:
        """Return the other columns of train.csv for each agent; their cost is not part of the step's."""

    @abstractmethod
    def summary(self, rows: Sequence[dict[str, float]]) -> str:
        """Return words for the bar from the newest rows of train.csv."""

    @abstractmethod
    def save(self, step: int) -> None:
        """Write each run's checkpoint."""

    @abstractmethod
    def evaluate(self, step: int, signals: Signals) -> None:
        """Evaluate and log the agents of a step, which has a checkpoint: a signal may come through at once."""

    def prepare(self, bar: Any) -> None:  # noqa: B027 - most need no preparation
        """Prepare the first step of a new run."""

    def synchronise(self) -> None:  # noqa: B027 - most agents always are in that state
        """Bring the agents to the state after the last step."""

    def check_weights(self, step: int) -> None:
        """Stop if a weight is not finite, see `finite.check_weights`."""
        self.synchronise()
        for log, agent in zip(self.logs, self.agents, strict=False):
            check_weights(agent, step, log.run)


def take_steps(training: Training, step: int) -> None:
    """Take the gradient steps that are left.

    Args:
        training: whose runs continue from `step`.
        step: gradient steps taken so far.

    Raises:
        UserError: losses or weights are no longer finite.
        Interrupted: SIGINT or SIGTERM came; the newest checkpoint continues the run.
    """
    agent, settings, seeds = training.agents[0], training.settings, len(training.agents)
    steps, log_interval = agent.config.steps, settings.log_every(agent.config.steps)
    name = agent.name + (f" x {seeds} seeds" if seeds > 1 else "")
    hidden = settings.quiet or not training.processes.first
    bar = progress_bar(total=steps, initial=step, desc=name, unit="step", disable=hidden)
    with bar, deferred_signals() as signals:
        if not step:
            training.prepare(bar)
        clock = since = time.perf_counter()
        since_step = step
        while True:
            if training.evaluates and _evaluation_due(training.evaluated, step, steps, settings.eval_interval):
                began = time.perf_counter()
                training.evaluate(step, signals)
                training.evaluated = step
                # The speeds of log and bar are those of training.
                took = time.perf_counter() - began
                since += took
                leave_out(bar, took)
            if step >= steps:
                break
            before = step
            with _weights_named(training, step):
                step += training.advance(step)
            bar.update(step - before)
            if step == steps or crossed(before, step, log_interval):
                metrics = training.metrics()
                now = time.perf_counter()
                times = {"time/steps_per_second": (step - since_step) / (now - since), "time/seconds": now - clock}
                with _weights_named(training, step):
                    more = training.more_metrics()
                rows = [mine | other for mine, other in zip(metrics, more, strict=True)]
                # With several processes, only the first has logs to write to.
                for log, row in zip(training.logs, rows, strict=False):
                    check_finite(row, step, log.run)
                    log.train(step, row | times)
                bar.set_postfix_str(training.summary(rows), refresh=False)
                since, since_step = now, step
            intervals = (settings.checkpoint_interval, settings.eval_interval)
            stopped = training.processes.stops(signals.received, step)
            if step == steps or stopped or any(crossed(before, step, interval) for interval in intervals):
                _save(training, step)
            if stopped:
                raise Interrupted(f"stopped at step {step} of {steps}; its checkpoint is saved")


def crossed(before: int, after: int, interval: int) -> bool:
    """Return whether a multiple of an interval lies in (before, after]."""
    return before // interval < after // interval


def _evaluation_due(evaluated: int, step: int, steps: int, interval: int) -> bool:
    return step > evaluated and (step == steps or crossed(evaluated, step, interval))


def _save(training: Training, step: int) -> None:
    """Checkpoint every run; old ones go when all have the new one, so that there always is a step that all have."""
    training.check_weights(step)
    training.save(step)
    for log in training.logs:
        log.run.drop_old_checkpoints(training.settings.keep_checkpoints)


@contextlib.contextmanager
def _weights_named(training: Training, step: int) -> Iterator[None]:
    """Name the weight that is not finite, where a flow refuses its weights for that."""
    try:
        yield
    except ValueError:
        training.check_weights(step)
        raise
