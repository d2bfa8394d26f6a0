"""Flow-matching goal-conditioned behavioural cloning."""

from dataclasses import dataclass

from nfkern.algorithms.agents.imitation.base import GeometricGoals
from nfkern.algorithms.agents.imitation.flow_matching_bc import FlowMatchingBC, FlowMatchingBCConfig


@dataclass(frozen=True)
class FlowMatchingGCBCConfig(GeometricGoals, FlowMatchingBCConfig):
    """FQL's settings for its behavioural-cloning flow, with NF-GCBC's goals."""


class FlowMatchingGCBC(FlowMatchingBC):
    """Flow-matching behavioural cloning that also sees a goal."""

    name = "flow_matching_gcbc"
    config_class = FlowMatchingGCBCConfig
    goal_conditioned = True
