"""Diffusion goal-conditioned behavioural cloning."""

from dataclasses import dataclass

from nfkern.algorithms.agents.imitation.base import GeometricGoals
from nfkern.algorithms.agents.imitation.diffusion_bc import DiffusionBC, DiffusionBCConfig


@dataclass(frozen=True)
class DiffusionGCBCConfig(GeometricGoals, DiffusionBCConfig):
    """Diffusion Policy's settings for states, with NF-GCBC's goals."""


class DiffusionGCBC(DiffusionBC):
    """Diffusion behavioural cloning that also sees a goal."""

    name = "diffusion_gcbc"
    config_class = DiffusionGCBCConfig
    goal_conditioned = True
