"""ReBRAC: a deterministic policy that the losses of actor and critics both keep near the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.networks import mlp
from nfkern.algorithms.agents.offline.base import OfflineRL, PolicyValueConfig, Transitions, task_presets
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class ReBRACConfig(PolicyValueConfig):
    """The FQL paper's settings for ReBRAC; both weights differ between environments."""

    q_aggregation: Literal["min", "mean"] = "min"
    tau: float = 0.0025
    """Share of the weights that enters their moving average at each step; FQL's code has 0.005 at every second step."""
    actor_weight: float = 0.01
    """Weight of the squared distance to the data's action in the actor's loss."""
    critic_weight: float = 0.01
    """Weight of the squared distance to the data's next action in the critics' target."""
    target_noise: float = 0.2
    """Standard deviation of the noise on the target policy's action."""
    target_noise_clip: float = 0.5
    """Bound of that noise."""
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the policy's hidden layers."""

    def batches(self) -> dict[str, Any]:
        """Add the next actions to the batches."""
        return super().batches() | {"next_actions": True}

    def _least(self) -> dict[str, float]:
        least = {"actor_weight": 0, "critic_weight": 0, "target_noise": 0, "target_noise_clip": 0}
        return super()._least() | least


_SOURCE = (
    "FQL's code (ReBRAC); weights from a reprint of its paper's table, but for antmaze-large's actor weight, which is "
    "ours (0.003, there 0.001)"
)
# From the README of FQL's code for humanoidmaze, from a reprint of its paper's table for the others.
_BY_ENVIRONMENT: dict[str, dict[str, Any]] = {
    "puzzle-3x3-play": {"actor_weight": 0.3, "critic_weight": 0.01},
    "scene-play": {"actor_weight": 0.1, "critic_weight": 0.01},
    "cube-single-play": {"actor_weight": 1.0, "critic_weight": 0.0},
    "antmaze-large-navigate": {"actor_weight": 0.003, "critic_weight": 0.01},
    "humanoidmaze-medium-navigate": {"actor_weight": 0.01, "critic_weight": 0.01, "gamma": 0.995},
    "antsoccer-arena-navigate": {"actor_weight": 0.01, "critic_weight": 0.01, "gamma": 0.995},
}
_PRESETS = task_presets(ReBRACConfig(), _SOURCE, _BY_ENVIRONMENT)


@register("rebrac", summary="offline RL with a deterministic policy near the data", presets=_PRESETS)
class ReBRAC(OfflineRL):
    """TD3 with behavioural cloning in both losses; actor and targets move at every step, not at every second one.

    Source: Tarasov et al., "Revisiting the Minimalist Approach to Offline RL", 2023, https://arxiv.org/abs/2305.09836.
    """

    config_class = ReBRACConfig
    batch_keys = (*OfflineRL.batch_keys, "next_actions")

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        # The first actions are near 0, where tanh has a large gradient.
        policy = mlp(inputs, outputs, self.config.hidden, last_gain=0.1)
        return {"policy": nn.Sequential(policy, nn.Tanh())}

    def _averaged(self) -> nn.Module:
        return nn.ModuleDict({name: self.networks[name] for name in ("critic", "policy")})

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return (torch.randn(rows, width, **options),)

    def _next_value(self, transitions: Transitions, noise: Noise) -> torch.Tensor:
        bound = self.config.target_noise_clip
        moved = (self.config.target_noise * noise[0]).clamp(-bound, bound)
        actions = self._clip(self._average("policy")(transitions.next_states) + moved)
        assert transitions.next_actions is not None
        distance = (actions - transitions.next_actions).square().sum(1)
        penalty: torch.Tensor = self.config.critic_weight * distance
        return self._target_value(transitions.next_states, actions) - penalty

    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        actions = self.networks["policy"](transitions.states)
        q = self._q(transitions.states, actions, frozen=True).amin(0)
        distance = (actions - transitions.actions).square().sum(1).mean()
        # The value is divided by its size, so that one weight suits rewards of any scale.
        loss = self.config.actor_weight * distance - q.mean() / q.detach().abs().mean()
        return loss, {"q": q.mean(), "distance": distance}
