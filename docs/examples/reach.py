"""The task of these examples: a point in the plane that should get to the middle within ten steps."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np


class Reach(gym.Env[np.ndarray, np.ndarray]):
    """Observations are places, actions are steps, and rewards are negative distances: -7.6 for an episode at rest."""

    observation_space = gym.spaces.Box(-2, 2, (2,))
    action_space = gym.spaces.Box(-0.5, 0.5, (2,))

    def __init__(self) -> None:
        self.reset(seed=0)  # libraries may reset it without a seed

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start anywhere."""
        super().reset(seed=seed)
        self.place, self.left = self.np_random.uniform(-1, 1, 2).astype(np.float32), 10
        return self.place, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move."""
        self.place, self.left = np.clip(self.place + action, -2, 2).astype(np.float32), self.left - 1
        return self.place, -float(np.linalg.norm(self.place)), False, self.left == 0, {}


def mean_return(act: Callable[[np.ndarray], np.ndarray], episodes: int = 50) -> float:
    """Return the mean sum of rewards of episodes."""
    task, total = Reach(), 0.0
    for seed in range(episodes):
        seen, done = task.reset(seed=seed)[0], False
        while not done:
            seen, reward, _, done, _ = task.step(act(seen))
            total += reward
    return total / episodes
