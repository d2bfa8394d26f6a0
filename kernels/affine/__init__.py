"""Causal affine coupling: every token moves by what the tokens before it say."""

from nfkern.kernels.affine.op import causal_affine

__all__ = ["causal_affine"]
