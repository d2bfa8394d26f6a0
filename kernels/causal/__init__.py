"""The causal flow: a causal transformer and a causal affine coupling in every block, all blocks in one op."""

from nfkern.kernels.causal.op import score, to_data, to_data_with_score, to_latent
from nfkern.kernels.causal.parameters import CausalParameters

__all__ = ["CausalParameters", "score", "to_data", "to_data_with_score", "to_latent"]
