"""Frozen flows: copies for acting, without autograd. Importing this registers them for `Flow.freeze`."""

from nfkern.acting import causal, coupling

__all__ = ["causal", "coupling"]
