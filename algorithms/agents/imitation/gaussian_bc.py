"""Gaussian behavioural cloning: regression on the action."""

from dataclasses import dataclass

import torch
from torch import nn

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.imitation.base import BehavioralCloning, BehavioralCloningConfig
from nfkern.algorithms.agents.networks import mlp, unit_gaussian_log_prob
from nfkern.algorithms.agents.optimization import LossAndInfo


@dataclass(frozen=True)
class GaussianBCConfig(BehavioralCloningConfig):
    """OGBench's settings for its GCBC baseline, without goals."""

    batch_size: int = 1024
    hidden: tuple[int, ...] = (512, 512, 512)
    """Widths of the policy's hidden layers."""


@register(
    "gaussian_bc",
    summary="behavioural cloning with a Gaussian",
    presets={"ogbench": Preset(GaussianBCConfig(observation_normalization="none"), "OGBench's GCBC, no goals")},
)
class GaussianBC(BehavioralCloning):
    """Maximum likelihood of actions under N(mean(observation), I); acts with the mean.

    Source: Park et al., "OGBench: Benchmarking Offline Goal-Conditioned RL", 2025, https://arxiv.org/abs/2410.20092.
    """

    config_class = GaussianBCConfig

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        return nn.ModuleDict({"policy": mlp(inputs, outputs, self.config.hidden)})

    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        mean = self.networks["policy"](conditioning)
        log_prob = unit_gaussian_log_prob(mean, actions)
        return -log_prob.mean(), {"log_prob": log_prob.mean(), "mse": (mean - actions).square().mean()}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        mean: torch.Tensor = networks["policy"](conditioning)
        return mean
