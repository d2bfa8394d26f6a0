"""NF-GCBC: goal-conditioned behavioural cloning with a conditional normalizing flow."""

from dataclasses import dataclass

from nfkern.algorithms.agents.imitation.base import GeometricGoals
from nfkern.algorithms.agents.imitation.nf_bc import NFBC, NFBCConfig


@dataclass(frozen=True)
class NFGCBCConfig(GeometricGoals, NFBCConfig):
    """The paper's settings for NF-GCBC (its JAX code; gamma 0.97 as in its README, 0.99 in its Table 4 for two)."""

    blocks: int = 6
    hidden: tuple[int, int] = (256, 256)
    representation: int = 64


class NFGCBC(NFBC):
    """NF-BC that also sees a goal: an observation that its trajectory reached later."""

    name = "nf_gcbc"
    config_class = NFGCBCConfig
    goal_conditioned = True
