"""The element-wise affine map of flows, and causal affine coupling, in which tokens move by earlier ones."""

from nfkern.kernels.affine.op import causal_affine

__all__ = ["causal_affine"]
