"""Conditional normalizing flows for reinforcement learning, with fused kernels."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfkern import optim
    from nfkern.causal import CausalFlow
    from nfkern.coupling import CouplingFlow
    from nfkern.distribution import FlowDistribution
    from nfkern.encoder import Encoder
    from nfkern.flow import Flow
    from nfkern.frozen import FrozenFlow
    from nfkern.frozen_causal import FrozenCausalFlow
    from nfkern.kernels import use_reference
    from nfkern.normalizer import Normalizer

__version__ = "0.1.0"
__all__ = [
    "CausalFlow",
    "CouplingFlow",
    "Encoder",
    "Flow",
    "FlowDistribution",
    "FrozenCausalFlow",
    "FrozenFlow",
    "Normalizer",
    "__version__",
    "optim",
    "use_reference",
]

# Imported on first use: torch takes seconds, which the command line and worker processes need not always pay.
_HOMES = {
    "CausalFlow": "nfkern.causal",
    "CouplingFlow": "nfkern.coupling",
    "Encoder": "nfkern.encoder",
    "Flow": "nfkern.flow",
    "FlowDistribution": "nfkern.distribution",
    "FrozenCausalFlow": "nfkern.frozen_causal",
    "FrozenFlow": "nfkern.frozen",
    "Normalizer": "nfkern.normalizer",
    "use_reference": "nfkern.kernels",
}


def __getattr__(name: str) -> Any:
    if name == "optim":
        return importlib.import_module("nfkern.optim")
    if name not in _HOMES:
        raise AttributeError(f"module 'nfkern' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
