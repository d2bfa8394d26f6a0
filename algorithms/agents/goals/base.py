"""Base of the offline goal-conditioned agents: OGBench's goals and sizes, and a Gaussian policy with its own goals."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.networks import mlp
from nfkern.algorithms.agents.offline.base import Offline, OfflineConfig
from nfkern.algorithms.agents.offline.iql import ImplicitConfig
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise, Tensors, sum_of_parts
from nfkern.algorithms.data import GoalSampling
from nfkern.algorithms.published import CONDITIONAL

OBSERVATIONS = ("observations", "next_observations", "goals", "actor_goals", "subgoals", "actor_subgoals")


@dataclass(frozen=True)
class OfflineGCRLConfig(OfflineConfig):
    """OGBench's settings, shared by its offline goal-conditioned agents."""

    batch_size: int = 1024
    critic_hidden: tuple[int, ...] = (512, 512, 512)
    hidden: tuple[int, ...] = (512, 512, 512)
    """Widths of the policy's hidden layers."""
    actor_random_goals: float = 0.0
    """Share of the policy's goals that are any observation; the rest lie ahead in the trajectory, uniformly."""

    def actor_goal_sampling(self) -> GoalSampling:
        """Return how the policy's goals are drawn."""
        return GoalSampling(p_trajectory=1 - self.actor_random_goals, p_random=self.actor_random_goals)

    def _least(self) -> dict[str, float]:
        return super()._least() | {"actor_random_goals": 0}


def dataset_presets(
    config: OfflineGCRLConfig, ogbench_name: str, by_family: Mapping[str, Mapping[str, Any]]
) -> dict[str, Preset]:
    """Return presets for OGBench's datasets, from its hyperparameters that differ between them.

    Args:
        config: an agent's settings.
        ogbench_name: the agent's name in OGBench.
        by_family: what differs, by the first word of a dataset's name, such as antmaze, or "manipulation".
    """
    presets = {}
    for name in (*CONDITIONAL, "pointmaze-medium-navigate", "pointmaze-large-navigate"):
        family = "manipulation" if name.endswith("play") else name.split("-")[0]
        changed = {"actor_random_goals": 0.5 if name.endswith("stitch") else 0.0, **by_family.get(family, {})}
        presets[name] = Preset(
            replace(config, observation_normalization="none", **changed),
            f"OGBench's code and hyperparameters ({ogbench_name})",
            f"{name}-v0",
        )
    return presets


@dataclass(frozen=True)
class ImplicitGCRLConfig(OfflineGCRLConfig, ImplicitConfig):
    """Settings of the agents with an implicit value."""

    def goal_sampling(self) -> GoalSampling:
        """Draw the values' goals: the observation itself, one ahead at a geometric offset, or any of the dataset."""
        return GoalSampling(p_current=0.2, p_trajectory=0.5, p_random=0.3, gamma=self.gamma)


class OfflineGCRL(Offline):
    """An agent that learns from a dataset how far goals are, and a Gaussian policy that reaches them.

    The loss is the sum of its parts. A subclass defines the parts, and the networks besides the policy.
    """

    goal_conditioned = True
    batch_keys: ClassVar[tuple[str, ...]] = ("observations", "actions", "actor_goals")

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        policy = mlp(self._policy_inputs(), outputs, self.config.hidden, last_gain=0.1)
        return nn.ModuleDict({"policy": policy, **self._build_values(self.sizes["observation_size"], outputs)})

    def _policy_inputs(self) -> int:
        """Return the size of the policy's input, an observation and a goal."""
        return 2 * self.sizes["observation_size"]

    @abstractmethod
    def _build_values(self, observation_size: int, action_size: int) -> Mapping[str, nn.Module]:
        """Return the networks besides the policy."""

    def forward(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """Return the sum of the parts of the loss, and the parts."""
        normalizers = dict.fromkeys(OBSERVATIONS, self.observation_normalizer) | {"actions": self.action_normalizer}
        normalized = {key: normalizers[key](value) if key in normalizers else value for key, value in batch.items()}
        return sum_of_parts(self._losses(normalized))

    @abstractmethod
    def _losses(self, batch: Tensors) -> dict[str, LossAndInfo]:
        """Return each part's loss on a batch whose observations, goals and actions, (batch, size), are normalised."""

    def _policy(self, batch: Tensors) -> torch.Tensor:
        """Return the policy's mean (batch, action_size) for its own goals."""
        mean: torch.Tensor = self.networks["policy"](torch.cat([batch["observations"], batch["actor_goals"]], 1))
        return mean
