"""Base of the imitating agents: histories, action chunks, and acting with averaged weights."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.config import AgentConfig, Preset
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise, Tensors
from nfkern.algorithms.data import GoalSampling


@dataclass(frozen=True)
class BehavioralCloningConfig(AgentConfig):
    """Settings shared by all behavioural-cloning agents."""

    ema_decay: float = 0.0
    """Act with an exponential moving average of the weights; 0 for none."""
    history: int = 1
    """Number of observations that a decision sees, the current one included."""
    chunk: int = 1
    """Number of actions that a decision returns."""
    execute: int = 1
    """Number of actions of a chunk that are executed before the next decision."""

    def batches(self) -> dict[str, Any]:
        """Add histories of observations and chunks of actions to the batches."""
        return super().batches() | {"history": self.history, "chunk": self.chunk}

    def average_decay(self) -> float:
        """Return the decay of the moving average of all weights."""
        return self.ema_decay

    def _least(self) -> dict[str, float]:
        return super()._least() | {"history": 1, "chunk": 1, "execute": 1}

    def __post_init__(self) -> None:
        """Check the settings that belong together."""
        super().__post_init__()
        if self.execute > self.chunk:
            raise ValueError(f"execute: expected at most chunk={self.chunk}, got {self.execute}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: expected a number in [0, 1), got {self.ema_decay}")


@dataclass(frozen=True)
class GeometricGoals:
    """NF-GCBC's goals for any goal-conditioned imitation, as the first of its settings' two bases.

    It is no `BehavioralCloningConfig` itself, because its defaults would then override those of the second base.
    """

    gamma: float = 0.97
    """Goals lie Geometric(1 - gamma) >= 1 steps ahead, clipped to the trajectory's end."""

    def goal_sampling(self) -> GoalSampling:
        """Draw later observations of the same trajectory, at geometric offsets."""
        return GoalSampling.geometric(self.gamma)


def quickstart(config_class: Callable[..., AgentConfig]) -> Preset:
    """Return the one recipe of `nfkern demo` for goal-conditioned imitation, so that only the policies differ."""
    recipe = {"steps": 3000, "warmup_steps": 500, "batch_size": 256, "learning_rate": 1e-3, "schedule": "cosine"}
    source = "chosen here, one recipe for three policies, by validation loss: few steps ask for a high learning rate"
    return Preset(config_class(**recipe, gamma=0.97), source, "pointmaze-medium-navigate-v0")


class BehavioralCloning(Agent):
    """An agent that imitates a dataset's actions given observations, and goals if it is goal-conditioned.

    A subclass defines its networks, its loss on normalised actions, and how it samples.
    """

    def __init__(self, config: BehavioralCloningConfig, observation_size: int, action_size: int) -> None:
        """Make the networks for one observation's size and one action's."""
        super().__init__(config, observation_size, action_size)
        self.execute = config.execute

    @abstractmethod
    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        """Return the loss of normalised actions (batch, chunk * action_size), given the noise of `_draw`."""

    def forward(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """Return the actor's loss on normalised actions."""
        actions = self.action_normalizer(batch["actions"].unflatten(1, (self.chunk, -1))).flatten(1)
        observations = batch["observations"].unflatten(1, (self.history, -1))
        loss, info = self._actor_loss(actions, self._conditioning(observations, batch.get("goals")), *noise)
        return loss, {f"actor/{name}": value.detach() for name, value in ({"loss": loss} | info).items()}

    def _acting(self) -> nn.ModuleDict:
        return self.networks if self.ema is None else cast(nn.ModuleDict, self.ema.module)
