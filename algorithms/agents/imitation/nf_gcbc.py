"""NF-GCBC: goal-conditioned behavioural cloning with a conditional normalizing flow."""

from dataclasses import dataclass, replace

from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.imitation.base import GeometricGoals, quickstart
from nfkern.algorithms.agents.imitation.nf_bc import NFBC, SMALL, SMALL_SOURCE, NFBCConfig
from nfkern.algorithms.published import CONDITIONAL


@dataclass(frozen=True)
class NFGCBCConfig(GeometricGoals, NFBCConfig):
    """The paper's settings for NF-GCBC: its JAX code, with gamma 0.97 as in its README (Table 4 has 0.99 for two)."""

    blocks: int = 6
    hidden: tuple[int, int] = (256, 256)
    representation: int = 64


# The paper's JAX code, which produced its OGBench results, makes the first hidden layer width + context wide.
_JAX = NFGCBCConfig(
    hidden=(256 + 64, 256), norm_eps=1e-6, observation_normalization="none", action_normalization="none"
)
_PAPER = Preset(_JAX, "paper's JAX code (NF-GCBC); gamma from its README")
_LONG = Preset(
    replace(_JAX, gamma=0.99),
    "paper's JAX code; gamma from the paper's Table 4, for antmaze-large and cube-double (its README has 0.97)",
)
_SMALL = Preset(NFGCBCConfig(**SMALL), SMALL_SOURCE)
_OWN = {"small": _SMALL, "quickstart": quickstart(NFGCBCConfig)}
_PRESETS = (
    {"paper": _PAPER, "paper-gamma-0.99": _LONG}
    | _OWN
    | {
        name: replace(_LONG if name.startswith(("antmaze-large", "cube-double")) else _PAPER, env_name=f"{name}-v0")
        for name in CONDITIONAL
    }
)


@register("nf_gcbc", summary="goal-conditioned behavioural cloning with a normalizing flow", presets=_PRESETS)
class NFGCBC(NFBC):
    """NF-BC that also sees a goal: an observation that its trajectory reached later."""

    config_class = NFGCBCConfig
    goal_conditioned = True
