"""GCIQL: goal-conditioned implicit Q-learning, with a Gaussian policy that climbs the critics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from nfkern.algorithms.datasets import GoalSampling
from nfkern.algorithms.iql import Implicit, ImplicitConfig
from nfkern.algorithms.networks import mlp, unit_gaussian_log_prob
from nfkern.algorithms.offline_rl import Transitions
from nfkern.algorithms.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class GCIQLConfig(ImplicitConfig):
    """OGBench's settings for GCIQL; `alpha` and `actor_random_goals` differ between datasets."""

    batch_size: int = 1024
    critic_hidden: tuple[int, ...] = (512, 512, 512)
    hidden: tuple[int, ...] = (512, 512, 512)
    alpha: float = 0.3
    """Weight of imitation (nats under a unit variance) beside the critics' value, divided by its size."""
    actor_random_goals: float = 0.0
    """Share of the policy's goals that are any observation; the rest lie ahead in the trajectory, uniformly."""

    def goal_sampling(self) -> GoalSampling:
        """The critics' goals: here, ahead at a geometric offset, or anywhere."""
        return GoalSampling(p_current=0.2, p_trajectory=0.5, p_random=0.3, gamma=self.gamma)

    def batches(self) -> dict[str, Any]:
        """Transitions with goals for the critics and goals for the policy."""
        share = self.actor_random_goals
        return super().batches() | {"actor_goals": GoalSampling(p_trajectory=1 - share, p_random=share)}

    def _least(self) -> dict[str, float]:
        return super()._least() | {"alpha": 0, "actor_random_goals": 0}


class GCIQL(Implicit):
    """IQL's value and critics for goals as rewards, and DDPG with behavioural cloning as the policy.

    Source: Park et al., "OGBench: Benchmarking Offline Goal-Conditioned RL", 2025, https://arxiv.org/abs/2410.20092.
    """

    name = "gciql"
    config_class = GCIQLConfig
    goal_conditioned = True
    batch_keys = (*Implicit.batch_keys, "actor_goals")

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        policy = mlp(inputs, outputs, self.config.hidden, last_gain=0.1)
        return {**super()._build_policy(inputs, outputs), "policy": policy}

    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        states, actions = transitions.actor_states, transitions.actions
        mean = self.networks["policy"](states)
        q = self._q(states, mean.clamp(-1, 1), frozen=True).amin(0)
        log_prob = unit_gaussian_log_prob(mean, actions).mean()
        # Divided by its size, so that one weight suits values of any scale.
        loss = -q.mean() / (q.detach().abs().mean() + 1e-6) - self.config.alpha * log_prob
        return loss, {"q": q.mean(), "log_prob": log_prob}
