"""The one training loop of the online agents: rounds of steps in the environments and gradient steps on what was lived.

Any `gymnasium.vector.VectorEnv` can be learned in whose observations are a Dict of "observation", "achieved_goal" and
"desired_goal", as gymnasium-robotics has them, and which resets an environment in the step after its episode's end
(gymnasium's `AutoresetMode.NEXT_STEP`); see `Rounds`.
"""

import contextlib
import copy
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn

from nfkern.algorithms.agents.online.base import OnlineGCRL, OnlineGCRLConfig
from nfkern.algorithms.agents.optimization import Info
from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data.replay import TrajectoryBuffer
from nfkern.algorithms.envs.mazes import layout, make_vector_maze
from nfkern.algorithms.evaluation.goals import evaluate_goals
from nfkern.algorithms.evaluation.rollout import derive_seed
from nfkern.algorithms.runs.claims import claim, release
from nfkern.algorithms.runs.folder import drop_old_checkpoints, load_checkpoint, locked, save_checkpoint
from nfkern.algorithms.runs.metrics import CsvLog, MetricLog
from nfkern.algorithms.runs.settings import OnlineSettings
from nfkern.algorithms.training.data_parallel import started_processes
from nfkern.algorithms.training.offline import Interrupted
from nfkern.algorithms.training.preparation import check_finite, check_weights, introduction, start_from
from nfkern.errors import UserError
from nfkern.host.interrupts import deferred_signals
from nfkern.host.progress import leave_out, progress_bar

NEXT_STEP = gymnasium.vector.AutoresetMode.NEXT_STEP
VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]


class Rounds:
    """Acts in environments and keeps what was lived.

    Args:
        agent: acts, and chooses the goals that it acts for.
        environments: as described at the top of this module.
        seed: of resets, actions and draws; one number or several.

    Attributes:
        buffer: the newest rows.
        env_steps: steps of all environments together.

    Raises:
        ValueError: the environments reset in another way.
    """

    def __init__(self, agent: OnlineGCRL, environments: VectorEnv, seed: int | Sequence[int]) -> None:
        mode = environments.metadata.get("autoreset_mode")
        if mode != NEXT_STEP:
            raise ValueError(f"environments: expected the autoreset mode {NEXT_STEP}, got {mode}")
        *starts, draws, noise = np.random.SeedSequence(seed).generate_state(environments.num_envs + 2).tolist()
        config = agent.config
        self.agent, self.environments = agent, environments
        sizes = agent.sizes
        self.buffer = TrajectoryBuffer(
            environments.num_envs,
            config.buffer_length,
            sizes["observation_size"],
            sizes["action_size"],
            sizes["goal_size"],
            seed=draws,
        )
        self.env_steps = 0
        self._generator = torch.Generator().manual_seed(noise)
        # A seed of its own for each: consecutive ones would be shared with the runs of neighbouring seeds.
        self._current, _ = environments.reset(seed=starts)
        self._starts = np.array(self._current["observation"], np.float32)
        self._last = np.zeros(environments.num_envs, bool)
        self._executor = ThreadPoolExecutor(1, "environments")

    def prefill(self) -> None:
        """Act for the environments' own goals, so that there is something to learn from."""
        self._keep(self._act(self.agent.config.prefill_length, None, self.agent.networks["actor"]))

    def unroll(self) -> np.ndarray:
        """Act for newly chosen goals; the goals, (num_envs, goal_size)."""
        with self.unrolling() as goals:
            pass
        return goals

    @contextlib.contextmanager
    def unrolling(self) -> Iterator[np.ndarray]:
        """Act for newly chosen goals while the context does something else; its rows are kept when it ends.

        What the context learns from is thus one round behind. The actor is a copy: nothing depends on which of the two
        is faster.
        """
        config, count = self.agent.config, self.environments.num_envs
        many = config.candidates if config.exploration in ("lowest_density", "min_max") else 1
        candidates = self.buffer.sample_goals(count * many, config.gamma).reshape(count, many, -1)
        goals = self.agent.choose_goals(candidates, self._current["desired_goal"], self._starts)
        # The environments' own goals change with their episodes.
        commanded = None if config.exploration == "oracle" else goals
        actor = copy.deepcopy(self.agent.networks["actor"])
        acting = self._executor.submit(self._act, config.unroll_length, commanded, actor)
        try:
            yield goals
        finally:
            self._keep(acting.result())

    def close(self) -> None:
        """End the thread that acts."""
        self._executor.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _act(self, steps: int, goals: np.ndarray | None, actor: nn.Module) -> list[tuple[np.ndarray, ...]]:
        """Rows as `TrajectoryBuffer.add` takes them, of acting for goals, or for the environments' own."""
        rows: list[tuple[np.ndarray, ...]] = []
        for _ in range(steps):
            observations = np.asarray(self._current["observation"], np.float32)
            wanted = np.asarray(self._current["desired_goal"] if goals is None else goals, np.float32)
            actions = self.agent.explore(observations, wanted, self._generator, actor)
            rows.append((observations.copy(), np.array(self._current["achieved_goal"]), actions, self._last))
            self._current, _, terminated, truncated, _ = self.environments.step(actions)
            self._last = terminated | truncated
        return rows

    def _keep(self, rows: list[tuple[np.ndarray, ...]]) -> None:
        for row in rows:
            self.buffer.add(*row)
        self.env_steps += len(rows) * self.environments.num_envs


def train_online(algorithm: str, config: OnlineGCRLConfig, settings: OnlineSettings) -> Path:
    """Train an agent in a maze.

    Args:
        algorithm: the name of an `OnlineGCRL` of `AGENTS`.
        config: its settings.
        settings: of the run.

    Returns:
        The run's folder: config.json, train.csv, eval.csv, tensorboard/, checkpoints/, coverage.png.

    Raises:
        UserError: the maze is unknown, a package is missing, or the folder holds another run.
        Interrupted: SIGINT or SIGTERM came; the newest checkpoint continues the run, with new episodes.
    """
    if started_processes() > 1:
        raise UserError(f"{algorithm} learns in one process: start it without torchrun")
    run_dirs = settings.run_dirs(algorithm)
    settings.check_tracking()
    if settings.eval_episodes and importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "evaluations draw the coverage with matplotlib: pip install 'nfkern[log]', or --eval-episodes 0"
        )
    # A misspelt maze leaves no folder behind.
    layout(settings.env_name)
    (run_dir,) = run_dirs.values()
    device = settings.torch_device()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(run_dir))
        environments = stack.enter_context(contextlib.closing(make_vector_maze(settings.env_name, config.num_envs)))
        torch.manual_seed(settings.seed)
        agent = AGENTS[algorithm].create(config, _example(environments)).to(device)
        assert isinstance(agent, OnlineGCRL)
        if settings.init_from is not None:
            start_from(agent, settings.init_from)
        start = claim(run_dirs, algorithm, config, settings)
        # New episodes after each interruption, so new random numbers for them.
        rounds = stack.enter_context(Rounds(agent, environments, (settings.seed, start)))
        noise = torch.Generator(device).manual_seed(derive_seed(settings.seed, start, 2))
        if start:
            checkpoint = run_dir / "checkpoints" / f"{start:08d}"
            restored, _, states = load_checkpoint(checkpoint, device, noise)
            assert isinstance(restored, OnlineGCRL)
            agent = rounds.agent = restored
            agent.config = config
            rounds.buffer.load_state_dict(load_file(checkpoint / "buffer.safetensors"))
            rounds.env_steps = states["env_steps"]
        try:
            log = stack.enter_context(contextlib.closing(MetricLog(run_dir, start, settings)))
        except BaseException:
            release(run_dirs.values())
            raise
        source = f"environments: {config.num_envs} of {settings.env_name}"
        for line in introduction(agent, run_dirs, source, settings, settings.env_name):
            print(line, file=sys.stderr)
        _Run(run_dir, agent, rounds, noise, log, settings).loop(start)
    return run_dir


@dataclass
class _Run:
    path: Path
    agent: OnlineGCRL
    rounds: Rounds
    noise: torch.Generator
    log: MetricLog
    settings: OnlineSettings
    _visited: set[tuple[int, ...]] = field(default_factory=set)
    _seen: int = 0

    def loop(self, step: int) -> None:
        """Take the gradient steps that are left."""
        config, settings = self.agent.config, self.settings
        log_interval = settings.log_every(config.steps)
        evaluations = CsvLog(self.path / "eval.csv", step)
        bar = progress_bar(total=config.steps, initial=step, desc=self.agent.name, unit="step", disable=settings.quiet)
        with bar, deferred_signals() as signals:
            if not step:
                bar.set_postfix_str("filling the buffer")
                self.rounds.prefill()
            clock = since = time.perf_counter()
            since_step = step
            while True:
                due = step // settings.eval_interval > evaluations.last_step // settings.eval_interval
                if settings.eval_episodes and step > evaluations.last_step and (due or step == config.steps):
                    # The checkpoint is saved: an interruption may come through at once.
                    began = time.perf_counter()
                    with signals.immediate():
                        result = self._evaluate()
                    evaluations.append({"step": step} | result)
                    self.log.note(step, result)
                    self._draw(step)
                    # The log's speeds are those of training.
                    took = time.perf_counter() - began
                    since += took
                    leave_out(bar, took)
                if step >= config.steps:
                    break
                before = step
                updates = min(config.updates_per_unroll, config.steps - step)
                with self.rounds.unrolling():
                    info = self._learn(updates)
                step += updates
                bar.update(updates)
                done = step == config.steps
                if done or _crossed(before, step, log_interval):
                    metrics = {f"training/{name}": value.item() for name, value in info.items()}
                    now = time.perf_counter()
                    times = {"time/steps_per_second": (step - since_step) / (now - since), "time/seconds": now - clock}
                    world = {"environment/steps": self.rounds.env_steps, "environment/coverage": self._coverage()}
                    check_finite(metrics, step, self.path)
                    self.log.train(step, metrics | world | times)
                    bar.set_postfix_str(f"coverage={world['environment/coverage']:.0%}", refresh=False)
                    since, since_step = now, step
                intervals = (settings.checkpoint_interval, settings.eval_interval)
                if done or signals.received or any(_crossed(before, step, interval) for interval in intervals):
                    self._save(step)
                if signals.received:
                    raise Interrupted(f"stopped at step {step} of {config.steps}; its checkpoint is saved")

    def _learn(self, updates: int) -> Info:
        config = self.agent.config
        info: Info = {}
        for _ in range(updates):
            info = self.agent.update(self.rounds.buffer.sample(config.batch_size, config.gamma), self.noise)
        return info

    def _coverage(self) -> float:
        """The share of the maze's free cells visited so far (after an interruption: in the rows kept, and since)."""
        maze = layout(self.settings.env_name)
        new = self.rounds.buffer.achieved(self.rounds.buffer.added - self._seen)
        self._visited.update(map(tuple, np.unique(maze.cells(new), axis=0).tolist()))
        self._seen = self.rounds.buffer.added
        self._visited.intersection_update(maze.free)
        return len(self._visited) / len(maze.free)

    def _evaluate(self) -> dict[str, float]:
        settings = self.settings
        result = evaluate_goals(
            self.agent,
            settings.env_name,
            episodes=settings.eval_episodes,
            seed=settings.eval_seed,
            goals=settings.goals,
        )
        return {f"evaluation/{name}": value for name, value in result.items()}

    def _draw(self, step: int) -> None:
        from nfkern.algorithms.training.coverage import save_coverage

        visited = self.rounds.buffer.achieved()
        save_coverage(self.path / "coverage.png", self.agent, layout(self.settings.env_name), visited, step)

    def _save(self, step: int) -> None:
        check_weights(self.agent, step, self.path)
        states = {"env_steps": self.rounds.env_steps}
        buffer = {"buffer": self.rounds.buffer.state_dict()}
        save_checkpoint(self.path, step, self.agent, states, self.noise, buffer)
        drop_old_checkpoints(self.path, self.settings.keep_checkpoints)


def _crossed(before: int, after: int, interval: int) -> bool:
    """Whether a multiple of an interval lies in (before, after]."""
    return before // interval < after // interval


def _example(environments: VectorEnv) -> dict[str, np.ndarray]:
    """A batch of one row, for the sizes."""
    spaces = environments.single_observation_space
    assert isinstance(spaces, gymnasium.spaces.Dict)
    shapes = {"observations": spaces["observation"].shape, "goals": spaces["desired_goal"].shape}
    shapes["actions"] = environments.single_action_space.shape
    return {name: np.zeros((1, *(shape or ())), np.float32) for name, shape in shapes.items()}
