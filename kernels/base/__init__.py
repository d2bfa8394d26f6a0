"""The base density of every flow."""

from nfkern.kernels.base.op import standard_normal_log_prob

__all__ = ["standard_normal_log_prob"]
