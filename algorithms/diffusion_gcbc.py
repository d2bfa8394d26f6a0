"""Diffusion goal-conditioned behavioural cloning."""

from dataclasses import dataclass

from nfkern.algorithms.datasets import GoalSampling
from nfkern.algorithms.diffusion_bc import DiffusionBC, DiffusionBCConfig


@dataclass(frozen=True)
class DiffusionGCBCConfig(DiffusionBCConfig):
    """Diffusion Policy's settings for states, with NF-GCBC's goals."""

    gamma: float = 0.97
    """Goals lie Geometric(1 - gamma) >= 1 steps ahead, clipped to the trajectory's end."""

    def goal_sampling(self) -> GoalSampling:
        """Later observations of the same trajectory, at geometric offsets."""
        return GoalSampling.geometric(self.gamma)


class DiffusionGCBC(DiffusionBC):
    """Diffusion behavioural cloning that also sees a goal."""

    name = "diffusion_gcbc"
    config_class = DiffusionGCBCConfig
    goal_conditioned = True
