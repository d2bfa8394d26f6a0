"""Diffusion behavioural cloning: a network that predicts noise, and many steps from noise to an action."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.diffusion import Diffusion, noise_predictor
from nfkern.algorithms.agents.imitation.base import BehavioralCloning, BehavioralCloningConfig
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class DiffusionBCConfig(BehavioralCloningConfig):
    """Diffusion Policy's settings for states, on a multi-layer perceptron as wide as the other baselines'."""

    learning_rate: float = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 500
    weight_decay: float = 1e-6
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, which acts; Diffusion Policy's decay reaches this at step 10,000."""
    hidden: tuple[int, ...] = (512, 512, 512, 512)
    """Widths of the noise predictor's hidden layers."""
    diffusion_steps: int = 100
    """Number of noise levels in training, on the squared-cosine schedule."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """How noise becomes an action: with fresh noise at each step (ddpm), or without (ddim), which needs fewer steps."""
    sampling_steps: int = 100
    """Evaluations of the noise predictor per action; at most diffusion_steps."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"diffusion_steps": 1, "sampling_steps": 1}


@register(
    "diffusion_bc",
    summary="behavioural cloning with a diffusion model",
    presets={
        "diffusion_policy": Preset(
            DiffusionBCConfig(
                history=2, chunk=16, execute=8, observation_normalization="min_max", action_normalization="min_max"
            ),
            "Diffusion Policy's state-based settings, its network replaced by a multi-layer perceptron",
        )
    },
)
class DiffusionBC(BehavioralCloning):
    """Diffusion on actions.

    Source: Chi et al., "Diffusion Policy", 2023, https://arxiv.org/abs/2303.04137.
    """

    config_class = DiffusionBCConfig
    bounded = True

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        config = self.config
        # Standardised actions lie beyond [-1, 1].
        clip = config.action_normalization != "standard"
        self._diffusion = Diffusion(config.diffusion_steps, config.sampler, config.sampling_steps, clip=clip)
        return nn.ModuleDict({"noise": noise_predictor(inputs, outputs, config.hidden)})

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return self._diffusion.draw(rows, width, **options)

    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        return self._diffusion.loss(self.networks["noise"], actions, conditioning, *noise), {}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        start = self._noise(conditioning.shape[0], generator)
        return self._diffusion.sample(networks["noise"], start, conditioning, generator)
