"""Settings by name, each with its source."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nfkern.algorithms.agents.base import AgentConfig
from nfkern.algorithms.agents.goals.base import OfflineGCRLConfig
from nfkern.algorithms.agents.goals.gciql import GCIQLConfig
from nfkern.algorithms.agents.goals.gcivl import GCIVLConfig
from nfkern.algorithms.agents.goals.hiql import HIQLConfig
from nfkern.algorithms.agents.goals.offline_crl import OfflineCRLConfig
from nfkern.algorithms.agents.goals.qrl import QRLConfig
from nfkern.algorithms.agents.imitation.diffusion_bc import DiffusionBCConfig
from nfkern.algorithms.agents.imitation.diffusion_gcbc import DiffusionGCBCConfig
from nfkern.algorithms.agents.imitation.flow_matching_bc import FlowMatchingBCConfig
from nfkern.algorithms.agents.imitation.flow_matching_gcbc import FlowMatchingGCBCConfig
from nfkern.algorithms.agents.imitation.gaussian_bc import GaussianBCConfig
from nfkern.algorithms.agents.imitation.gaussian_gcbc import GaussianGCBCConfig
from nfkern.algorithms.agents.imitation.nf_bc import NFBCConfig
from nfkern.algorithms.agents.imitation.nf_gcbc import NFGCBCConfig
from nfkern.algorithms.agents.offline.diffusion_ql import DiffusionQLConfig
from nfkern.algorithms.agents.offline.fql import FQLConfig
from nfkern.algorithms.agents.offline.ifql import IFQLConfig
from nfkern.algorithms.agents.offline.iql import IQLConfig
from nfkern.algorithms.agents.offline.nf_rlbc import NFRLBCConfig
from nfkern.algorithms.agents.offline.rebrac import ReBRACConfig
from nfkern.algorithms.agents.online.crl import CRLConfig
from nfkern.algorithms.agents.online.nf_ugs import NFUGSConfig
from nfkern.algorithms.published import CONDITIONAL, UNSUPERVISED
from nfkern.errors import UserError


@dataclass(frozen=True)
class Preset:
    """An agent's settings, and where they come from."""

    config: AgentConfig
    source: str
    env_name: str | None = None
    """The dataset that it is for, unless another is named."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run that belong to it."""


# The paper's JAX code, which produced its OGBench results: the first hidden layer is width + context wide.
_JAX = NFGCBCConfig(
    hidden=(256 + 64, 256), norm_eps=1e-6, observation_normalization="none", action_normalization="none"
)
_NF_GCBC_SOURCE = "paper's JAX code (NF-GCBC); gamma from its README"
_LONG = Preset(
    replace(_JAX, gamma=0.99),
    "paper's JAX code; gamma from the paper's Table 4, for antmaze-large and cube-double (its README has 0.97)",
)

# Chunks keep a policy on the way that it has chosen.
_SCRIPTED = NFBCConfig(
    steps=5000,
    learning_rate=1e-3,
    history=5,
    chunk=4,
    execute=4,
    blocks=4,
    hidden=(128, 128),
    representation=64,
    encoder_width=256,
)

PRESETS: dict[str, dict[str, Preset]] = {
    "nf_gcbc": {
        "paper": Preset(_JAX, _NF_GCBC_SOURCE),
        "paper-gamma-0.99": _LONG,
        **{
            name: replace(
                _LONG if name.startswith(("antmaze-large", "cube-double")) else Preset(_JAX, _NF_GCBC_SOURCE),
                env_name=f"{name}-v0",
            )
            for name in CONDITIONAL
        },
    },
    "nf_bc": {
        "pusht": Preset(
            NFBCConfig(
                blocks=24,
                history=2,
                chunk=8,
                execute=4,
                learning_rate=1e-3,
                observation_normalization="min_max",
                action_normalization="min_max",
            ),
            "paper's torch code, PushT command of its README (chunk 16 / 8 in the script's defaults)",
            "pusht-human-v0",
            {"train_episodes": 90},
        ),
        "ur3": Preset(NFBCConfig(history=10, observation_normalization="none"), "paper's torch code, UR3 BlockPush"),
        "ant": Preset(
            NFBCConfig(
                history=100, chunk=8, execute=8, observation_normalization="min_max", action_normalization="min_max"
            ),
            "paper's torch code, Multimodal Ant",
        ),
        "kitchen": Preset(
            NFBCConfig(history=10, representation=1024, observation_normalization="none"),
            "paper's torch code, Kitchen",
            "kitchen-human-v0",
        ),
        **{
            name: Preset(_SCRIPTED, "chosen here, for a minute or two on a CPU", f"{name}-scripted-v0")
            for name in ("pointmass", "blockpush")
        },
    },
    "gaussian_bc": {"ogbench": Preset(GaussianBCConfig(observation_normalization="none"), "OGBench's GCBC, no goals")},
    "gaussian_gcbc": {"ogbench": Preset(GaussianGCBCConfig(observation_normalization="none"), "OGBench's GCBC")},
    "flow_matching_bc": {"fql": Preset(FlowMatchingBCConfig(observation_normalization="none"), "FQL's BC flow")},
    "flow_matching_gcbc": {
        "fql": Preset(FlowMatchingGCBCConfig(observation_normalization="none"), "FQL's BC flow, with NF-GCBC's goals")
    },
    "diffusion_bc": {
        "diffusion_policy": Preset(
            DiffusionBCConfig(
                history=2, chunk=16, execute=8, observation_normalization="min_max", action_normalization="min_max"
            ),
            "Diffusion Policy's state-based settings, its network replaced by a multi-layer perceptron",
        )
    },
    "diffusion_gcbc": {
        "diffusion_policy": Preset(
            DiffusionGCBCConfig(observation_normalization="min_max", action_normalization="min_max"),
            "Diffusion Policy's state-based settings with NF-GCBC's goals, for single actions",
        )
    },
}


# What differs between the environments of the offline RL tasks. NF-RLBC: README of the paper's code. FQL: README of its
# code, which also has IQL, ReBRAC and IFQL for humanoidmaze; the others' are those of a reprint of its paper's table.
_OFFLINE_RL: dict[str, dict[str, dict[str, Any]]] = {
    "puzzle-3x3-play": {
        "nf_rlbc": {"alpha": 10.0},
        "fql": {"alpha": 1000.0},
        "iql": {"alpha": 10.0},
        "rebrac": {"actor_weight": 0.3, "critic_weight": 0.01},
    },
    "scene-play": {
        "nf_rlbc": {"alpha": 10.0},
        "fql": {"alpha": 300.0},
        "iql": {"alpha": 10.0},
        "rebrac": {"actor_weight": 0.1, "critic_weight": 0.01},
    },
    "cube-single-play": {
        "nf_rlbc": {"alpha": 10.0},
        "fql": {"alpha": 300.0},
        "iql": {"alpha": 1.0},
        "rebrac": {"actor_weight": 1.0, "critic_weight": 0.0},
    },
    "antmaze-large-navigate": {
        "nf_rlbc": {"alpha": 1.0},
        "fql": {"alpha": 10.0, "q_aggregation": "min"},
        "iql": {"alpha": 10.0},
        "rebrac": {"actor_weight": 0.003, "critic_weight": 0.01},
    },
    "humanoidmaze-medium-navigate": {
        "nf_rlbc": {"alpha": 1.0},
        "fql": {"alpha": 30.0, "gamma": 0.995},
        "iql": {"alpha": 10.0, "gamma": 0.995},
        "rebrac": {"actor_weight": 0.01, "critic_weight": 0.01, "gamma": 0.995},
        "ifql": {"gamma": 0.995},
    },
    "antsoccer-arena-navigate": {
        "nf_rlbc": {"alpha": 1.0, "q_aggregation": "mean"},
        "fql": {"alpha": 10.0, "gamma": 0.995},
        "iql": {"alpha": 1.0, "gamma": 0.995},
        "rebrac": {"actor_weight": 0.01, "critic_weight": 0.01, "gamma": 0.995},
        "ifql": {"gamma": 0.995, "candidates": 64},
    },
}
_OFFLINE_RL_BASES: dict[str, Preset] = {
    "nf_rlbc": Preset(NFRLBCConfig(), "paper's JAX code for offline RL, and its README"),
    "fql": Preset(FQLConfig(), "FQL's code, and its README"),
    "ifql": Preset(
        IFQLConfig(), "FQL's code (IFQL); candidates from a reprint of its paper's table, the discount of FQL"
    ),
    "iql": Preset(IQLConfig(), "FQL's code (IQL); its weight from a reprint of its paper's table"),
    "rebrac": Preset(
        ReBRACConfig(),
        "FQL's code (ReBRAC); weights from a reprint of its paper's table, but for antmaze-large's actor weight, "
        "which is ours (0.003, there 0.001)",
    ),
}
for _algorithm, _base in _OFFLINE_RL_BASES.items():
    PRESETS[_algorithm] = {
        environment: Preset(
            replace(_base.config, observation_normalization="none", **settings.get(_algorithm, {})),
            _base.source,
            f"{environment}-singletask-v0",
        )
        for environment, settings in _OFFLINE_RL.items()
    }
# What differs between datasets in OGBench's hyperparameters, by the start of a dataset's name; "" is manipulation.
# It names a discount for QRL, too, whose goals and losses have none.
_OFFLINE_GCRL: dict[str, dict[str, dict[str, Any]]] = {
    "pointmaze": {"gciql": {"alpha": 0.003}, "qrl": {"alpha": 0.0003}, "offline_crl": {"alpha": 0.03}},
    "antmaze": {"gciql": {"alpha": 0.3}, "qrl": {"alpha": 0.003}, "offline_crl": {"alpha": 0.1}},
    "humanoidmaze": {
        "gciql": {"alpha": 0.1, "gamma": 0.995},
        "qrl": {"alpha": 0.001},
        "offline_crl": {"alpha": 0.1, "gamma": 0.995},
        "gcivl": {"gamma": 0.995},
        "hiql": {"gamma": 0.995, "subgoal_steps": 100},
    },
    "antsoccer": {"gciql": {"alpha": 0.1}, "qrl": {"alpha": 0.003}, "offline_crl": {"alpha": 0.3}},
    "": {
        "gciql": {"alpha": 1.0},
        "qrl": {"alpha": 0.3},
        "offline_crl": {"alpha": 3.0},
        "hiql": {"subgoal_steps": 10},
    },
}
_OFFLINE_GCRL_BASES: dict[str, OfflineGCRLConfig] = {
    "gciql": GCIQLConfig(),
    "qrl": QRLConfig(),
    "offline_crl": OfflineCRLConfig(),
    "gcivl": GCIVLConfig(),
    "hiql": HIQLConfig(),
}
for _algorithm, _config in _OFFLINE_GCRL_BASES.items():
    PRESETS[_algorithm] = {
        name: Preset(
            replace(
                _config,
                observation_normalization="none",
                actor_random_goals=0.5 if name.endswith("stitch") else 0.0,
                **_OFFLINE_GCRL.get(name.split("-")[0], _OFFLINE_GCRL[""]).get(_algorithm, {}),
            ),
            f"OGBench's code and hyperparameters ({_algorithm.removeprefix('offline_').upper()})",
            f"{name}-v0",
        )
        for name in (*CONDITIONAL, "pointmaze-medium-navigate", "pointmaze-large-navigate")
    }
PRESETS["nf_ugs"] = {
    name: Preset(NFUGSConfig(), "paper's JAX code (NF-UGS); batch size from its README", name) for name in UNSUPERVISED
}
PRESETS["crl"] = {
    f"{name}-{exploration}": Preset(CRLConfig(exploration=exploration), "paper's JAX code (CRL baselines)", name)
    for name in UNSUPERVISED
    for exploration in ("oracle", "uniform", "min_max")
}
PRESETS["diffusion_ql"] = {
    "ogbench": Preset(
        DiffusionQLConfig(observation_normalization="none"), "Diffusion-QL's five steps, FQL's settings for all else"
    )
}


def find_preset(algorithm: str, name: str) -> Preset:
    """The preset of an algorithm.

    Raises:
        UserError: no such preset.
    """
    if name not in PRESETS[algorithm]:
        raise UserError(f"--preset: {algorithm} has {', '.join(PRESETS[algorithm])}, got {name!r}")
    return PRESETS[algorithm][name]
