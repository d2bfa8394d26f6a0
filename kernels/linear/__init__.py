"""A product of rows with a weight."""

from nfkern.kernels.linear.op import linear

__all__ = ["linear"]
