"""GCIQL: goal-conditioned implicit Q-learning, with a Gaussian policy that maximises the critics' value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.goals.base import ImplicitGCRLConfig, dataset_presets
from nfkern.algorithms.agents.networks import mlp
from nfkern.algorithms.agents.offline.base import Transitions
from nfkern.algorithms.agents.offline.iql import Implicit
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise
from nfkern.algorithms.agents.policy_losses import ddpg_bc_loss


@dataclass(frozen=True)
class GCIQLConfig(ImplicitGCRLConfig):
    """OGBench's settings for GCIQL; `alpha` and `actor_random_goals` differ between datasets."""

    alpha: float = 0.3
    """Weight of imitation (nats under a unit variance) against the critics' value, divided by its size."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"alpha": 0}


_BY_FAMILY: dict[str, dict[str, Any]] = {
    "pointmaze": {"alpha": 0.003},
    "antmaze": {"alpha": 0.3},
    "humanoidmaze": {"alpha": 0.1, "gamma": 0.995},
    "antsoccer": {"alpha": 0.1},
    "manipulation": {"alpha": 1.0},
}


@register(
    "gciql",
    summary="goal-conditioned offline RL with an implicit value",
    presets=dataset_presets(GCIQLConfig(), "GCIQL", _BY_FAMILY),
)
class GCIQL(Implicit):
    """IQL's value and critics for goals as rewards, and DDPG with behavioural cloning as the policy.

    Source: Park et al., "OGBench: Benchmarking Offline Goal-Conditioned RL", 2025, https://arxiv.org/abs/2410.20092.
    """

    config_class = GCIQLConfig
    goal_conditioned = True
    batch_keys = (*Implicit.batch_keys, "actor_goals")

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        policy = mlp(inputs, outputs, self.config.hidden, last_gain=0.1)
        return {**super()._build_policy(inputs, outputs), "policy": policy}

    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        states, actions = transitions.actor_states, transitions.actions
        mean = self.networks["policy"](states)
        q = self._q(states, self._clip(mean), frozen=True).amin(0)
        return ddpg_bc_loss(mean, actions, q, self.config.alpha)
