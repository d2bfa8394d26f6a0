"""Gaussian goal-conditioned behavioural cloning: OGBench's GCBC."""

from dataclasses import dataclass

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.imitation.base import quickstart
from nfkern.algorithms.agents.imitation.gaussian_bc import GaussianBC, GaussianBCConfig
from nfkern.algorithms.data import GoalSampling


@dataclass(frozen=True)
class GaussianGCBCConfig(GaussianBCConfig):
    """OGBench's settings for GCBC."""

    gamma: float | None = None
    """Goals at geometric offsets with this discount; None for OGBench's uniform choice over the trajectory's future."""

    def goal_sampling(self) -> GoalSampling:
        """Draw later observations of the same trajectory."""
        return GoalSampling(gamma=self.gamma)


@register(
    "gaussian_gcbc",
    summary="OGBench's goal-conditioned behavioural cloning",
    presets={
        "ogbench": Preset(GaussianGCBCConfig(observation_normalization="none"), "OGBench's GCBC"),
        "quickstart": quickstart(GaussianGCBCConfig),
    },
)
class GaussianGCBC(GaussianBC):
    """Gaussian behavioural cloning that also sees a goal."""

    config_class = GaussianGCBCConfig
    goal_conditioned = True
