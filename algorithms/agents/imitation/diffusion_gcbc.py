"""Diffusion goal-conditioned behavioural cloning."""

from dataclasses import dataclass

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.imitation.base import GeometricGoals
from nfkern.algorithms.agents.imitation.diffusion_bc import DiffusionBC, DiffusionBCConfig


@dataclass(frozen=True)
class DiffusionGCBCConfig(GeometricGoals, DiffusionBCConfig):
    """Diffusion Policy's settings for states, with NF-GCBC's goals."""


@register(
    "diffusion_gcbc",
    summary="goal-conditioned behavioural cloning with a diffusion model",
    presets={
        "diffusion_policy": Preset(
            DiffusionGCBCConfig(observation_normalization="min_max", action_normalization="min_max"),
            "Diffusion Policy's state-based settings with NF-GCBC's goals, for single actions",
        )
    },
)
class DiffusionGCBC(DiffusionBC):
    """Diffusion behavioural cloning that also sees a goal."""

    config_class = DiffusionGCBCConfig
    goal_conditioned = True
