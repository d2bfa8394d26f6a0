"""Diffusion Q-learning: a diffusion policy that also maximises the value of its samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.diffusion import Diffusion, noise_predictor
from nfkern.algorithms.agents.offline.base import OfflineRL, PolicyValueConfig, Transitions
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class DiffusionQLConfig(PolicyValueConfig):
    """Diffusion-QL's five steps, with FQL's settings for all else."""

    q_aggregation: Literal["min", "mean"] = "min"
    value_weight: float = 1.0
    """Weight of the critics' value, divided by its size, against the diffusion's loss."""
    diffusion_steps: int = 5
    """Number of noise levels, and of steps from noise to an action."""
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the noise predictor's hidden layers."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"value_weight": 0, "diffusion_steps": 1}


@register(
    "diffusion_ql",
    summary="offline RL with a diffusion model",
    presets={
        "ogbench": Preset(
            DiffusionQLConfig(observation_normalization="none"),
            "Diffusion-QL's five steps, FQL's settings for all else",
        )
    },
)
class DiffusionQL(OfflineRL):
    """A diffusion policy; gradients of the value flow through all DDIM steps of sampling.

    Source: Wang, Hunt and Zhou, "Diffusion Policies as an Expressive Policy Class for Offline RL", 2023,
    https://arxiv.org/abs/2208.06193. This is a lean form: the original samples with fresh noise on the
    variance-preserving schedule, takes the target's actions from averaged weights, maximises one critic at random, and
    acts with the best of many samples.
    """

    config_class = DiffusionQLConfig

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        steps = self.config.diffusion_steps
        self._diffusion = Diffusion(steps, "ddim", steps)
        return {"noise": noise_predictor(inputs, outputs, self.config.hidden)}

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        following, start = torch.randn(rows, width, **options), torch.randn(rows, width, **options)
        return following, start, *self._diffusion.draw(rows, width, **options)

    def _next_value(self, transitions: Transitions, noise: Noise) -> torch.Tensor:
        actions = self._clip(self._diffusion.sample(self.networks["noise"], noise[0], transitions.next_states))
        return self._target_value(transitions.next_states, actions)

    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        predictor, states, (_, start, *noising) = self.networks["noise"], transitions.states, noise
        imitation = self._diffusion.loss(predictor, transitions.actions, states, *noising)
        actions = self._clip(self._diffusion.sample(predictor, start, states))
        q = self._q(states, actions, frozen=True).amin(0)
        loss = imitation - self.config.value_weight * q.mean() / q.detach().abs().mean()
        return loss, {"q": q.mean(), "imitation": imitation}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        return self._diffusion.sample(networks["noise"], self._noise(conditioning.shape[0], generator), conditioning)
