"""AdamW on a coupling flow's hidden weights, from the factors of their gradient."""

from nfkern.kernels.adamw.reference import AdamWSettings
from nfkern.kernels.adamw.step import adamw_from_factors

__all__ = ["AdamWSettings", "adamw_from_factors"]
