"""LayerNorm of the references and its derivative: PyTorch's own, or written out inside transforms.

There PyTorch's is not enough (torch 2.13). To a second derivative, the tangents of `native_layer_norm` are constants:
`torch.func.jacfwd` of `jacfwd` of `torch.nn.functional.layer_norm` is wrong. `native_layer_norm_backward` has no
derivative with respect to the mean and the standard deviation.
"""

import torch

from nfkern.kernels.dispatch.op_transforms import in_transform


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LayerNorm over the last dimension: the result, the mean and 1 / the standard deviation."""
    if not in_transform((x, weight, bias)):
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], weight, bias, eps)
        return normed, mean, rstd
    mean = x.mean(-1, keepdim=True)
    centred = x - mean
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    normed = centred * rstd
    return normed if weight is None or bias is None else torch.addcmul(bias, normed, weight), mean, rstd


def layer_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    parameter_grads: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of LayerNorm's input and, with `parameter_grads`, of its weight and bias."""
    if not in_transform((grad, x, mean, rstd, weight, bias)):
        backward, wanted = torch.ops.aten.native_layer_norm_backward, [True, parameter_grads, parameter_grads]
        grad_x, grad_weight, grad_bias = backward(grad, x, x.shape[-1:], mean, rstd, weight, bias, wanted)
        return grad_x, grad_weight, grad_bias
    normed, rows = (x - mean) * rstd, tuple(range(x.ndim - 1))
    scaled = grad if weight is None else grad * weight
    along = (scaled * normed).mean(-1, keepdim=True)
    grad_x = rstd * (scaled - scaled.mean(-1, keepdim=True) - normed * along)
    return grad_x, (grad * normed).sum(rows), grad.sum(rows)
