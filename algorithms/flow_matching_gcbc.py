"""Flow-matching goal-conditioned behavioural cloning."""

from dataclasses import dataclass

from nfkern.algorithms.datasets import GoalSampling
from nfkern.algorithms.flow_matching_bc import FlowMatchingBC, FlowMatchingBCConfig


@dataclass(frozen=True)
class FlowMatchingGCBCConfig(FlowMatchingBCConfig):
    """FQL's settings for its behavioural-cloning flow, with NF-GCBC's goals."""

    gamma: float = 0.97
    """Goals lie Geometric(1 - gamma) >= 1 steps ahead, clipped to the trajectory's end."""

    def goal_sampling(self) -> GoalSampling:
        """Later observations of the same trajectory, at geometric offsets."""
        return GoalSampling.geometric(self.gamma)


class FlowMatchingGCBC(FlowMatchingBC):
    """Flow-matching behavioural cloning that also sees a goal."""

    name = "flow_matching_gcbc"
    config_class = FlowMatchingGCBCConfig
    goal_conditioned = True
