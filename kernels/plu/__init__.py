"""PLU mixing of features, composed once per parameter version for all blocks."""

from nfkern.kernels.plu.op import compose

__all__ = ["compose"]
