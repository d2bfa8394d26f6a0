"""Bias, activation and LayerNorm of a hidden layer."""

from nfkern.kernels.activation.op import Activation, hidden_activation

__all__ = ["Activation", "hidden_activation"]
