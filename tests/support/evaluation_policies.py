"""Policies simple enough to know what they must do; the loaders can be sent to worker processes."""

import os
import signal
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from nfkern.algorithms.evaluation import rollout


@dataclass
class StraightToGoal:
    """Walks towards the goal in a straight line, with noise from the generator; remembers what it was shown."""

    history: int = 1
    chunk: int = 1
    execute: int = 1
    goal_conditioned: bool = True
    noise: float = 0.3
    seen: list[np.ndarray] = field(default_factory=list)

    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        assert goals is not None
        assert observations.dtype == goals.dtype == np.float32
        self.seen.append(observations.copy())
        direction = goals[:, :2] - observations[:, -1, :2]
        direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
        noise = torch.randn(len(goals), self.chunk, 2, generator=generator).numpy()
        actions: np.ndarray = direction[:, None] + self.noise * noise
        return actions


@dataclass
class Square:
    """Four different actions in each chunk, whatever it sees."""

    history: int = 1
    chunk: int = 4
    execute: int = 4
    goal_conditioned: bool = False
    decisions: int = 0

    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        assert goals is None
        self.decisions += 1
        corners = np.array([[1.0, 0.5], [-0.5, 1.0], [-1.0, -0.5], [5.0, -1.0]], dtype=np.float32)
        return np.broadcast_to(corners, (len(observations), 4, 2))


class Slow(StraightToGoal):
    """Takes its time, so that it can be interrupted."""

    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        time.sleep(0.01)
        return super().act(observations, goals, generator)


class Dying(StraightToGoal):
    """Kills its own process in the middle of a block, as the system does when memory is short."""

    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        if len(self.seen) == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().act(observations, goals, generator)


def load_straight_to_goal() -> StraightToGoal:
    return StraightToGoal()


def load_slow() -> Slow:
    return Slow()


def load_dying() -> Dying:
    return Dying()


def load_nothing() -> StraightToGoal:
    raise FileNotFoundError("no such checkpoint")


def cut_episodes(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """End every episode of this process after so many steps, whatever an evaluation asks for."""
    original = rollout.make_environment
    monkeypatch.setattr(
        rollout, "make_environment", lambda name, **options: original(name, **options | {"max_episode_steps": steps})
    )
