"""Conditional normalizing flows for reinforcement learning, with fused kernels."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nfkern import convert, optim
    from nfkern.acting.causal import FrozenCausalFlow
    from nfkern.acting.coupling import FrozenFlow
    from nfkern.algorithms.acting import load
    from nfkern.algorithms.reports import plot
    from nfkern.algorithms.scripting import evaluate, train
    from nfkern.flows.causal import CausalFlow
    from nfkern.flows.coupling import CouplingFlow
    from nfkern.flows.distribution import FlowDistribution
    from nfkern.flows.encoder import Encoder
    from nfkern.flows.flow import Flow
    from nfkern.flows.head import FlowHead
    from nfkern.flows.normalizer import Normalizer
    from nfkern.kernels import use_reference

__version__ = "0.1.0"
__all__ = [
    "CausalFlow",
    "CouplingFlow",
    "Encoder",
    "Flow",
    "FlowDistribution",
    "FlowHead",
    "FrozenCausalFlow",
    "FrozenFlow",
    "Normalizer",
    "__version__",
    "convert",
    "evaluate",
    "load",
    "optim",
    "plot",
    "train",
    "use_reference",
]

# Imported on first use: torch takes seconds, which the command line and worker processes need not always pay.
_HOMES = {
    "CausalFlow": "nfkern.flows.causal",
    "CouplingFlow": "nfkern.flows.coupling",
    "Encoder": "nfkern.flows.encoder",
    "Flow": "nfkern.flows.flow",
    "FlowDistribution": "nfkern.flows.distribution",
    "FlowHead": "nfkern.flows.head",
    "FrozenCausalFlow": "nfkern.acting.causal",
    "FrozenFlow": "nfkern.acting.coupling",
    "Normalizer": "nfkern.flows.normalizer",
    "evaluate": "nfkern.algorithms.scripting",
    "load": "nfkern.algorithms.acting",
    "train": "nfkern.algorithms.scripting",
    "use_reference": "nfkern.kernels",
}


_MODULES = {"convert": "nfkern.convert", "optim": "nfkern.optim", "plot": "nfkern.algorithms.reports.plot"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'nfkern' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
