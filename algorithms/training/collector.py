"""The collection of an online agent's experience: rounds of steps in environments, which a replay buffer keeps.

Any `gymnasium.vector.VectorEnv` can be learned in whose observations are a Dict of "observation", "achieved_goal" and
"desired_goal", as gymnasium-robotics has them, and which resets an environment in the step after its episode's end
(gymnasium's `AutoresetMode.NEXT_STEP`).
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import gymnasium
import numpy as np
import torch
from torch import nn

from nfkern.algorithms.agents.online.base import OnlineGCRL
from nfkern.algorithms.data.replay import TrajectoryBuffer

NEXT_STEP = gymnasium.vector.AutoresetMode.NEXT_STEP
VectorEnv = gymnasium.vector.VectorEnv[Any, Any, Any]


class Collector:
    """Acts in environments and keeps the transitions.

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
        """Act for the environments' own goals, to fill the buffer before the first gradient step."""
        self._keep(self._act(self.agent.config.prefill_length, None, self.agent.networks["actor"]))

    def unroll(self) -> np.ndarray:
        """Act for newly chosen goals; return the goals, (num_envs, goal_size)."""
        with self.unrolling() as goals:
            pass
        return goals

    @contextlib.contextmanager
    def unrolling(self) -> Iterator[np.ndarray]:
        """Act for newly chosen goals while the context does something else; the rows are kept when it ends.

        The context thus learns from the rows up to the round before. The actor is a copy: nothing depends on which of
        the two is faster.
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
        """Act for goals, or for the environments' own; return rows as `TrajectoryBuffer.add` takes them."""
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
