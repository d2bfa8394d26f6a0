"""NF-GCBC: goal-conditioned behavioural cloning with a conditional normalizing flow."""

from dataclasses import dataclass

from nfkern.algorithms.datasets import GoalSampling
from nfkern.algorithms.nf_bc import NFBC, NFBCConfig


@dataclass(frozen=True)
class NFGCBCConfig(NFBCConfig):
    """The paper's settings for NF-GCBC (its JAX code; gamma 0.97 as in its README, 0.99 in its Table 4 for two)."""

    blocks: int = 6
    hidden: tuple[int, int] = (256, 256)
    representation: int = 64
    gamma: float = 0.97
    """Goals lie Geometric(1 - gamma) >= 1 steps ahead, clipped to the trajectory's end."""

    def goal_sampling(self) -> GoalSampling:
        """Later observations of the same trajectory, at geometric offsets."""
        return GoalSampling.geometric(self.gamma)


class NFGCBC(NFBC):
    """NF-BC that also sees a goal: an observation that its trajectory reached later."""

    name = "nf_gcbc"
    config_class = NFGCBCConfig
    goal_conditioned = True
