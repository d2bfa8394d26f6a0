"""Training of the online agents in a maze: rounds of steps in the environments, and gradient steps on their rows."""

import contextlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from nfkern.algorithms.agents.online.base import OnlineGCRL, OnlineGCRLConfig
from nfkern.algorithms.agents.optimization import Info
from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.envs.mazes import layout, make_vector_maze
from nfkern.algorithms.evaluation.goals import evaluate_goals
from nfkern.algorithms.evaluation.rollout import derive_seed
from nfkern.algorithms.runs.log import CsvLog, MetricLog
from nfkern.algorithms.runs.run import released_on_error
from nfkern.algorithms.runs.settings import OnlineSettings
from nfkern.algorithms.runs.start import resume_or_start
from nfkern.algorithms.training.collector import Collector, VectorEnv
from nfkern.algorithms.training.data_parallel import started_processes
from nfkern.algorithms.training.loop import Training, take_steps
from nfkern.algorithms.training.preparation import introduction, start_from
from nfkern.errors import UserError
from nfkern.host.interrupts import Signals
from nfkern.host.packages import install_command


def train_online(algorithm: str, config: OnlineGCRLConfig, settings: OnlineSettings) -> Path:
    """Train an agent in a maze.

    Args:
        algorithm: the name of an `OnlineGCRL` of `AGENTS`.
        config: its settings.
        settings: of the run.

    Returns:
        The run's folder: config.json, train.csv, eval.csv, tensorboard/, checkpoints/, coverage.png.

    Raises:
        UserError: the maze is unknown, a package is missing, the folder holds another run, or losses or weights are no
            longer finite.
        Interrupted: SIGINT or SIGTERM came; the newest checkpoint continues the run, with new episodes.
    """
    if started_processes() > 1:
        raise UserError(f"{algorithm} learns in one process: start it without torchrun")
    runs = settings.runs(algorithm)
    settings.check_tracking()
    if settings.eval_episodes and importlib.util.find_spec("matplotlib") is None:
        command = install_command("matplotlib")
        raise UserError(f"evaluations draw the coverage with matplotlib: {command}, or --eval-episodes 0")
    # A misspelt maze leaves no folder behind.
    layout(settings.env_name)
    (run,) = runs.values()
    device = settings.torch_device()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run.locked())
        environments = stack.enter_context(contextlib.closing(make_vector_maze(settings.env_name, config.num_envs)))
        torch.manual_seed(settings.seed)
        agent = AGENTS[algorithm].create(config, _example(environments)).to(device)
        assert isinstance(agent, OnlineGCRL)
        if settings.init_from is not None:
            start_from(agent, settings.init_from)
        start = resume_or_start(runs, algorithm, config, settings)
        stack.enter_context(released_on_error([run]))
        # New episodes after each interruption, so new random numbers for them.
        collector = stack.enter_context(Collector(agent, environments, (settings.seed, start)))
        noise = torch.Generator(device).manual_seed(derive_seed(settings.seed, start, 2))
        if start:
            checkpoint = run.checkpoint(start)
            restored, states = checkpoint.restore(device, noise)
            assert isinstance(restored, OnlineGCRL)
            agent = collector.agent = restored
            agent.config = config
            collector.buffer.load_state_dict(checkpoint.arrays("buffer"))
            collector.env_steps = states["env_steps"]
        log = stack.enter_context(contextlib.closing(MetricLog(run, start, settings)))
        source = f"environments: {config.num_envs} of {settings.env_name}"
        for line in introduction(agent, [run], source, settings, settings.env_name):
            print(line, file=sys.stderr)
        take_steps(OnlineTraining(collector, noise, log, settings, start), start)
    return run.path


class OnlineTraining(Training):
    """The training of one agent in a maze, as `take_steps` takes it.

    Args:
        collector: acts with the agent and keeps its rows.
        noise: of the loss.
        log: of the run.
        settings: of the run.
        start: the step from which it continues.
    """

    def __init__(
        self, collector: Collector, noise: torch.Generator, log: MetricLog, settings: OnlineSettings, start: int
    ) -> None:
        self._evaluations = CsvLog(log.run.path / "eval.csv", start)
        super().__init__([log], settings, evaluates=settings.eval_episodes > 0, evaluated=self._evaluations.last_step)
        self._collector, self._noise, self._goals = collector, noise, settings.goals
        self._maze = layout(settings.env_name)
        self._info: Info = {}
        self._visited: set[tuple[int, ...]] = set()
        self._seen = 0

    @property
    def agents(self) -> Sequence[OnlineGCRL]:
        """The one agent."""
        return [self._collector.agent]

    def prepare(self, bar: Any) -> None:
        """Fill the buffer."""
        bar.set_postfix_str("filling the buffer")
        self._collector.prefill()

    def advance(self, step: int) -> int:
        """Take the gradient steps of a round while the next rows are collected."""
        agent, config = self._collector.agent, self._collector.agent.config
        updates: int = min(config.updates_per_unroll, config.steps - step)
        with self._collector.unrolling():
            for _ in range(updates):
                batch = self._collector.buffer.sample(config.batch_size, config.gamma)
                self._info = agent.update(batch, self._noise)
        return updates

    def metrics(self) -> list[dict[str, float]]:
        """Return the newest step's metrics."""
        return [{f"training/{name}": value.item() for name, value in self._info.items()}]

    def more_metrics(self) -> list[dict[str, float]]:
        """Return the steps in the environments and the coverage of the maze."""
        return [{"environment/steps": self._collector.env_steps, "environment/coverage": self._coverage()}]

    def summary(self, rows: Sequence[dict[str, float]]) -> str:
        """Return the coverage in words."""
        return f"coverage={rows[0]['environment/coverage']:.0%}"

    def save(self, step: int) -> None:
        """Write the checkpoint, with the buffer."""
        states = {"env_steps": self._collector.env_steps}
        buffer = {"buffer": self._collector.buffer.state_dict()}
        self.logs[0].run.save_checkpoint(step, self._collector.agent, states, self._noise, buffer)

    def evaluate(self, step: int, signals: Signals) -> None:
        """Evaluate the agent, log the result and draw the coverage."""
        agent, settings = self._collector.agent, self.settings
        with signals.immediate():
            found = evaluate_goals(
                agent,
                settings.env_name,
                episodes=settings.eval_episodes,
                seed=settings.eval_seed,
                goals=self._goals,
            )
        result = {f"evaluation/{name}": value for name, value in found.items()}
        self._evaluations.append({"step": step} | result)
        (log,) = self.logs
        log.note(step, result)
        from nfkern.algorithms.training.coverage import save_coverage

        save_coverage(log.run.path / "coverage.png", agent, self._maze, self._collector.buffer.achieved(), step)

    def _coverage(self) -> float:
        """Return the share of free cells visited so far; after an interruption, in the rows kept and since."""
        buffer = self._collector.buffer
        new = buffer.achieved(buffer.added - self._seen)
        self._visited.update(map(tuple, np.unique(self._maze.cells(new), axis=0).tolist()))
        self._seen = buffer.added
        self._visited.intersection_update(self._maze.free)
        return len(self._visited) / len(self._maze.free)


def _example(environments: VectorEnv) -> dict[str, np.ndarray]:
    """Return a batch of one row, for the sizes."""
    spaces = environments.single_observation_space
    assert isinstance(spaces, gymnasium.spaces.Dict)
    shapes = {"observations": spaces["observation"].shape, "goals": spaces["desired_goal"].shape}
    shapes["actions"] = environments.single_action_space.shape
    return {name: np.zeros((1, *(shape or ())), np.float32) for name, shape in shapes.items()}
