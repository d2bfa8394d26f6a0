"""LayerNorm as the references use it."""

import torch

from nfkern.kernels.registry import in_transform


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`torch.native_layer_norm` over the last dimension: the result, the mean and 1 / the standard deviation.

    In transforms it is written out: to a second derivative, the tangents of PyTorch's own are constants (torch 2.13:
    `torch.func.jacfwd` of `jacfwd` of `torch.nn.functional.layer_norm` is wrong).
    """
    if not in_transform((x, weight, bias)):
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
        return normed, mean, rstd
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normed = centred * rstd
    return normed if weight is None or bias is None else torch.addcmul(bias, normed, weight), mean, rstd
