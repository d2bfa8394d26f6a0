"""Settings by name, each with its source."""

from dataclasses import dataclass, replace

from nfkern.algorithms.behavioral_cloning import BehavioralCloningConfig
from nfkern.algorithms.flow_matching_bc import FlowMatchingBCConfig
from nfkern.algorithms.flow_matching_gcbc import FlowMatchingGCBCConfig
from nfkern.algorithms.gaussian_bc import GaussianBCConfig
from nfkern.algorithms.gaussian_gcbc import GaussianGCBCConfig
from nfkern.algorithms.nf_bc import NFBCConfig
from nfkern.algorithms.nf_gcbc import NFGCBCConfig
from nfkern.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """An agent's settings, and where they come from."""

    config: BehavioralCloningConfig
    source: str


# The paper's JAX code, which produced its OGBench results: the first hidden layer is width + context wide.
_JAX = NFGCBCConfig(hidden=(256 + 64, 256), norm_eps=1e-6, observation_normalization="none")
_NF_GCBC_SOURCE = "paper's JAX code (NF-GCBC); gamma from its README"

PRESETS: dict[str, dict[str, Preset]] = {
    "nf_gcbc": {
        "paper": Preset(_JAX, _NF_GCBC_SOURCE),
        "paper-gamma-0.99": Preset(
            replace(_JAX, gamma=0.99),
            "paper's JAX code; gamma from the paper's Table 4, for antmaze-large and cube-double (its README has 0.97)",
        ),
    },
    "nf_bc": {
        "pusht": Preset(
            NFBCConfig(
                blocks=24, history=2, chunk=8, execute=4, learning_rate=1e-3, observation_normalization="min_max"
            ),
            "paper's torch code, PushT command of its README (chunk 16 / 8 in the script's defaults)",
        ),
        "ur3": Preset(NFBCConfig(history=10, observation_normalization="none"), "paper's torch code, UR3 BlockPush"),
        "ant": Preset(
            NFBCConfig(
                history=100, chunk=8, execute=8, observation_normalization="min_max", action_normalization="min_max"
            ),
            "paper's torch code, Multimodal Ant",
        ),
        "kitchen": Preset(
            NFBCConfig(history=10, representation=1024, observation_normalization="none"), "paper's torch code, Kitchen"
        ),
    },
    "gaussian_bc": {"ogbench": Preset(GaussianBCConfig(observation_normalization="none"), "OGBench's GCBC, no goals")},
    "gaussian_gcbc": {"ogbench": Preset(GaussianGCBCConfig(observation_normalization="none"), "OGBench's GCBC")},
    "flow_matching_bc": {"fql": Preset(FlowMatchingBCConfig(observation_normalization="none"), "FQL's BC flow")},
    "flow_matching_gcbc": {
        "fql": Preset(FlowMatchingGCBCConfig(observation_normalization="none"), "FQL's BC flow, with NF-GCBC's goals")
    },
}


def find_preset(algorithm: str, name: str) -> Preset:
    """The preset of an algorithm.

    Raises:
        UsageError: no such preset.
    """
    if name not in PRESETS[algorithm]:
        raise UsageError(f"--preset: {algorithm} has {', '.join(PRESETS[algorithm])}, got {name!r}")
    return PRESETS[algorithm][name]
