"""Conditional normalizing flows for reinforcement learning, with fused kernels."""

__version__ = "0.1.0"

from nfkern.coupling import CouplingFlow
from nfkern.distribution import FlowDistribution
from nfkern.encoder import Encoder
from nfkern.flow import Flow
from nfkern.kernels import use_reference
from nfkern.normalizer import Normalizer

__all__ = ["CouplingFlow", "Encoder", "Flow", "FlowDistribution", "Normalizer", "__version__", "use_reference"]
