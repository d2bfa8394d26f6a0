"""Base of the online goal-conditioned agents: a squashed Gaussian actor with a learned temperature, and goals."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn

from nfkern import Encoder
from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.config import ActionMode, AgentConfig
from nfkern.algorithms.agents.networks import PositiveNumber
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise, ParameterGroups, Tensors
from nfkern.flows.normalizer import Mode

Exploration = Literal["lowest_density", "min_max", "uniform", "oracle"]
LOG_STD_RANGE = (-5.0, 2.0)


@dataclass(frozen=True)
class OnlineGCRLConfig(AgentConfig):
    """The paper's settings for unsupervised goal-conditioned RL (reference code)."""

    steps: int = 400_000
    """Gradient steps; with the other defaults they take 1e8 steps of the environments."""
    batch_size: int = 4096
    critic_learning_rate: float = 1e-4
    """Learning rate of the critic (in NF-UGS, of its flow), where weight_decay acts; the rest has learning_rate."""
    observation_normalization: Mode = "none"
    action_normalization: ActionMode = "none"
    gamma: float = 0.99
    """Goals lie Geometric(1 - gamma) >= 1 steps ahead in the same episode."""
    num_envs: int = 1024
    """Number of environments that are stepped together."""
    unroll_length: int = 62
    """Steps of every environment between two rounds of gradient steps; after them each gets a new goal."""
    updates_per_unroll: int = 256
    """Gradient steps per round."""
    prefill_length: int = 1000
    """Steps of every environment, with the environment's own goals, before the first gradient step."""
    buffer_length: int = 10_000
    """Number of newest steps kept of every environment."""
    candidates: int = 1024
    """Number of hindsight goals to choose from, for every environment."""
    representation: int = 64
    """Size of the encodings."""
    width: int = 1024
    """Width of the hidden layers of actor and encoders."""
    layers: int = 4
    """Number of hidden layers of actor and encoders."""

    def _least(self) -> dict[str, float]:
        counts = ("num_envs", "unroll_length", "updates_per_unroll", "prefill_length", "candidates")
        sizes = ("representation", "width", "layers")
        return super()._least() | dict.fromkeys((*counts, *sizes), 1) | {"buffer_length": 2}

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma: expected a number in (0, 1), got {self.gamma}")
        for name in ("observation_normalization", "action_normalization"):
            if getattr(self, name) != "none":
                raise ValueError(
                    f"{name}: expected none, because there is no dataset to take it from, got {getattr(self, name)!r}"
                )
        if not self.critic_learning_rate > 0:
            raise ValueError(f"critic_learning_rate: expected a number > 0, got {self.critic_learning_rate}")


class OnlineGCRL(Agent):
    """An agent that learns to reach goals from its own experience; goals are parts of observations.

    The critic estimates how readily a goal is reached after an action. The actor maximises this estimate and its own
    entropy, as in SAC (https://arxiv.org/abs/1812.05905). A subclass defines the critic.
    """

    goal_conditioned = True
    goals_are_observations = False
    # The host draws the batches, and a captured step has one learning rate.
    capturable = False
    has_density: ClassVar[bool] = False

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        config = self.config
        actor = Encoder(inputs, 2 * outputs, width=config.width, layers=config.layers)
        goal_size = self.sizes["goal_size"]
        critic = self._build_critic(self.sizes["observation_size"] + outputs, goal_size)
        return nn.ModuleDict({"actor": actor, "temperature": PositiveNumber(), **critic})

    @abstractmethod
    def _build_critic(self, inputs: int, goal_size: int) -> Mapping[str, nn.Module]:
        """Return the critic's networks, for [state, action] (batch, inputs)."""

    def _parameter_groups(self) -> ParameterGroups:
        critic = self._critic_group()
        group = [parameter for name in critic for parameter in self.networks[name].parameters()]
        others = [
            parameter
            for name, network in self.networks.items()
            if name not in critic
            for parameter in network.parameters()
        ]
        return [
            {"params": others, "weight_decay": 0.0},
            {"params": group, "lr": self.config.critic_learning_rate},
        ]

    @abstractmethod
    def _critic_group(self) -> tuple[str, ...]:
        """Return the names of the networks that learn with critic_learning_rate and weight_decay."""

    @abstractmethod
    def _value(
        self, states: torch.Tensor, actions: torch.Tensor, goals: torch.Tensor, *, frozen: bool = False
    ) -> torch.Tensor:
        """Return how readily goals are reached, (batch,); `frozen` lets gradients reach the arguments alone."""

    @abstractmethod
    def _critic_loss(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """Return the critic's loss on transitions and goals that they reached."""

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return (torch.randn(rows, width, **options),)

    def forward(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """Return the sum of the losses of critic, actor and temperature, each of which trains its own weights alone."""
        critic, critic_info = self._critic_loss(batch, noise)
        states, goals = batch["observations"], batch["goals"]
        actions, log_prob = self._squashed(torch.cat([states, goals], 1), noise[0])
        value = self._value(states, actions, goals, frozen=True).mean()
        temperature = self.networks["temperature"]()
        actor = temperature.detach() * log_prob.mean() - value
        entropy = -log_prob.mean().detach()
        # Raises the temperature while the entropy is below its target.
        balance = temperature * (entropy - self._target_entropy())
        info = {"critic/loss": critic, "actor/loss": actor, "actor/value": value, "actor/entropy": entropy}
        info |= {"temperature/loss": balance, "temperature/value": temperature}
        info |= {f"critic/{name}": value for name, value in critic_info.items()}
        return critic + actor + balance, {name: value.detach() for name, value in info.items()}

    def _target_entropy(self) -> float:
        """Return minus half the size of an action, in nats, as in the paper's code."""
        return -0.5 * self.sizes["action_size"]

    def _squashed(
        self, conditioning: torch.Tensor, noise: torch.Tensor | None, actor: nn.Module | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return actions tanh(mean + std * noise), (batch, action_size), and their log-density; None means no noise."""
        actor = self.networks["actor"] if actor is None else actor
        mean, log_std = actor(conditioning).chunk(2, 1)
        low, high = LOG_STD_RANGE
        log_std = low + 0.5 * (high - low) * (log_std.tanh() + 1)
        noise = torch.zeros_like(mean) if noise is None else noise
        before = mean + log_std.exp() * noise
        log_prob = -(0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi))
        # log(1 - tanh(x)^2), without cancellation.
        log_slope = 2 * (math.log(2) - before - nn.functional.softplus(-2 * before))
        return before.tanh(), (log_prob - log_slope).sum(1)

    def _conditioning(self, observations: torch.Tensor, goals: torch.Tensor | None) -> torch.Tensor:
        assert goals is not None
        return torch.cat([observations.flatten(1), goals], 1)

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Return the actor's actions without noise, which the paper evaluates."""
        return self._squashed(conditioning, None)[0]

    @torch.inference_mode()
    def explore(
        self,
        observations: np.ndarray,
        goals: np.ndarray,
        generator: torch.Generator | None = None,
        actor: nn.Module | None = None,
    ) -> np.ndarray:
        """Return actions with noise.

        Args:
            observations: (n, observation_size).
            goals: (n, goal_size).
            generator: a CPU generator; the global one if None.
            actor: network that acts in place of the agent's actor, such as an earlier copy of it.

        Returns:
            (n, action_size), within [-1, 1].
        """
        conditioning = self._checked_conditioning(observations[:, None], goals)
        noise = self._noise(conditioning.shape[0], generator)
        actions: np.ndarray = self._squashed(conditioning, noise, actor)[0].cpu().numpy()
        return actions

    @torch.inference_mode()
    def choose_goals(self, candidates: np.ndarray, desired: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the goal to command in each environment.

        Args:
            candidates: (num_envs, candidates, goal_size) hindsight goals.
            desired: (num_envs, goal_size), the environments' own goals, which the rule "oracle" takes.
            starts: (num_envs, observation_size), first observations of the episodes, for the rule "min_max".

        Returns:
            (num_envs, goal_size).
        """
        exploration = self.config.exploration
        if exploration == "oracle":
            return desired
        if exploration == "uniform":
            return candidates[:, 0]
        if exploration == "lowest_density":
            score = self.log_density(candidates)
        else:
            score = self._value_at_start(self._tensor(candidates), self._tensor(starts)).cpu().numpy()
        chosen: np.ndarray = candidates[np.arange(len(candidates)), score.argmin(1)]
        return chosen

    def log_density(self, goals: np.ndarray) -> np.ndarray:
        """Return the log-density (n, m), in nats, of goals (n, m, goal_size) among all goals reached so far.

        Raises:
            NotImplementedError: the agent has no density (`has_density`).
        """
        raise NotImplementedError(f"{self.name} has no density of goals")

    def _value_at_start(self, goals: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Return the critic's values, at the start, of acting for goals (num_envs, candidates, goal_size)."""
        values = []
        # One environment at a time: the activations for all candidates of all would fill a GPU's memory.
        for start, mine in zip(starts, goals, strict=True):
            states = start.expand(len(mine), -1)
            actions, _ = self._squashed(torch.cat([states, mine], 1), None)
            values.append(self._value(states, actions, mine))
        return torch.stack(values)
