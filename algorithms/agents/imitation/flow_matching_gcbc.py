"""Flow-matching goal-conditioned behavioural cloning."""

from dataclasses import dataclass

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.imitation.base import GeometricGoals, quickstart
from nfkern.algorithms.agents.imitation.flow_matching_bc import FlowMatchingBC, FlowMatchingBCConfig


@dataclass(frozen=True)
class FlowMatchingGCBCConfig(GeometricGoals, FlowMatchingBCConfig):
    """FQL's settings for its behavioural-cloning flow, with NF-GCBC's goals."""


@register(
    "flow_matching_gcbc",
    summary="goal-conditioned behavioural cloning with flow matching",
    presets={
        "fql": Preset(FlowMatchingGCBCConfig(observation_normalization="none"), "FQL's BC flow, with NF-GCBC's goals"),
        "quickstart": quickstart(FlowMatchingGCBCConfig),
    },
)
class FlowMatchingGCBC(FlowMatchingBC):
    """Flow-matching behavioural cloning that also sees a goal."""

    config_class = FlowMatchingGCBCConfig
    goal_conditioned = True
