"""Bases of the offline agents and of those that learn from rewards, with critics and their moving average."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import nn

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.config import AgentConfig, Preset
from nfkern.algorithms.agents.networks import EnsembleMLP
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise, Tensors, sum_of_parts
from nfkern.algorithms.published import OFFLINE_RL

CRITICS = 2
# The published codes keep the data's actions this far from the bounds.
ACTION_MARGIN = 1e-5


@dataclass(frozen=True)
class OfflineConfig(AgentConfig):
    """Settings shared by all agents that learn values from a dataset."""

    critic_hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the critics' hidden layers, each followed by LayerNorm."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.action_normalization == "standard":
            raise ValueError(
                "action_normalization: offline RL expects auto, min_max or none, which give actions in [-1, 1], got "
                "'standard'"
            )


@dataclass(frozen=True)
class OfflineRLConfig(OfflineConfig):
    """FQL's settings for critics, shared by all offline RL agents with targets."""

    gamma: float = 0.99
    """Discount."""
    tau: float = 0.005
    """Share of the critics' weights that enters their moving average, the target, at each step."""

    def batches(self) -> dict[str, Any]:
        """Add the next observations to the batches."""
        return super().batches() | {"next_observations": True}

    def average_decay(self) -> float:
        """Return the decay of the target critics."""
        return 1 - self.tau

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma: expected a number in [0, 1), got {self.gamma}")
        if not 0 < self.tau <= 1:
            raise ValueError(f"tau: expected a number in (0, 1], got {self.tau}")


def task_presets(
    config: OfflineRLConfig, source: str, by_environment: Mapping[str, Mapping[str, Any]]
) -> dict[str, Preset]:
    """Return presets for the paper's offline RL environments, from the settings that differ between them."""
    return {
        name: Preset(
            replace(config, observation_normalization="none", **by_environment.get(name, {})),
            source,
            f"{name}-singletask-v0",
        )
        for name in OFFLINE_RL
    }


@dataclass(frozen=True)
class PolicyValueConfig(OfflineRLConfig):
    """Settings of the agents whose critics value the policy's own actions."""

    q_aggregation: Literal["min", "mean"] = "mean"
    """How the critics' target combines the values of the two."""


@dataclass(frozen=True)
class Transitions:
    """A normalised batch, as the losses see it; states are observations, followed by goals if there are any."""

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    masks: torch.Tensor
    next_states: torch.Tensor
    next_actions: torch.Tensor | None
    """The dataset's next actions, for agents with "next_actions" in `batch_keys`."""
    actor_states: torch.Tensor
    """The policy's states: `states`, unless it learns for other goals than its critics."""


class Offline(Agent):
    """An agent that learns values and a policy, by default the network `policy`, from a dataset."""

    bounded: ClassVar[bool] = True

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Return the output of the network `policy`, unless a subclass samples."""
        actions: torch.Tensor = networks["policy"](conditioning)
        return actions

    def _average(self, network: str) -> nn.Module:
        """Return the moving average of a network."""
        assert self.ema is not None
        return cast(nn.ModuleDict, self.ema.module)[network]


class OfflineRL(Offline):
    """An agent that learns from rewards in a dataset: critics by temporal differences, and a policy.

    The loss is the sum of its parts, each of which trains its own networks alone. A subclass defines the policy.
    """

    batch_keys: ClassVar[tuple[str, ...]] = ("observations", "actions", "next_observations", "rewards", "masks")

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        critic = EnsembleMLP(CRITICS, inputs + outputs, self.config.critic_hidden)
        return nn.ModuleDict({"critic": critic, **self._build_policy(inputs, outputs)})

    @abstractmethod
    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        """Return the networks besides the critics, for states (batch, inputs) and actions (batch, outputs)."""

    def _averaged(self) -> nn.Module:
        return nn.ModuleDict({"critic": self.networks["critic"]})

    def forward(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """Return the sum of the critics' and the policy's losses, and its parts."""
        states = self._states(batch["observations"], batch.get("goals"))
        actor_goals = batch.get("actor_goals")
        transitions = Transitions(
            states=states,
            actions=self.action_normalizer(batch["actions"]).clamp(ACTION_MARGIN - 1, 1 - ACTION_MARGIN),
            rewards=batch["rewards"],
            masks=batch["masks"],
            next_states=self._states(batch["next_observations"], batch.get("goals")),
            next_actions=self.action_normalizer(batch["next_actions"]) if "next_actions" in batch else None,
            actor_states=states if actor_goals is None else self._states(batch["observations"], actor_goals),
        )
        return sum_of_parts(self._losses(transitions, noise))

    def _states(self, observations: torch.Tensor, goals: torch.Tensor | None) -> torch.Tensor:
        return self._conditioning(observations.unflatten(1, (1, -1)), goals)

    def _losses(self, transitions: Transitions, noise: Noise) -> dict[str, LossAndInfo]:
        """Return the loss of each part."""
        return {
            "critic": self._critic_loss(transitions, noise),
            "actor": self._actor_loss(transitions, noise),
        }

    def _critic_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        """Return the mean squared error of both critics against r + gamma * mask * V(s')."""
        with torch.no_grad():
            following = self._next_value(transitions, noise)
            target = transitions.rewards + self.config.gamma * transitions.masks * following
        q = self._q(transitions.states, transitions.actions)
        return (q - target).square().mean(), {"q_mean": q.mean()}

    @abstractmethod
    def _next_value(self, transitions: Transitions, noise: Noise) -> torch.Tensor:
        """Return V(s'), (batch,), for the critics' target; runs without gradients."""

    @abstractmethod
    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        """Return the policy's loss, given the noise of `_draw`."""

    def _q(self, states: torch.Tensor, actions: torch.Tensor, *, frozen: bool = False) -> torch.Tensor:
        """Return the critics' values (CRITICS, batch); `frozen` lets gradients reach states and actions alone."""
        q: torch.Tensor = self.networks["critic"](torch.cat([states, actions], 1), frozen=frozen)
        return q

    def _target_q(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Return the values (CRITICS, batch) of the critics' moving average."""
        q: torch.Tensor = self._average("critic")(torch.cat([states, actions], 1))
        return q

    def _target_value(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Return the combined value (batch,) of the target critics for a policy's actions."""
        q = self._target_q(states, actions)
        return q.amin(0) if self.config.q_aggregation == "min" else q.mean(0)
