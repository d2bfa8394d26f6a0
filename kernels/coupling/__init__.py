"""The whole coupling flow: one op per direction, one for samples with their score."""

from nfkern.kernels.coupling.folding import fold
from nfkern.kernels.coupling.op import score, to_data, to_data_with_score, to_latent
from nfkern.kernels.coupling.parameters import CouplingParameters

__all__ = ["CouplingParameters", "fold", "score", "to_data", "to_data_with_score", "to_latent"]
