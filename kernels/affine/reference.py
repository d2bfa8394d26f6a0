r"""Causal affine coupling: its definition.

In the block's order of tokens, :math:`z_t = (x_t - \mathrm{shift}_t) \, e^{-\mathrm{log\_scale}_t}`, where the pair of
token t was computed from the tokens before t. A conditioner that has not seen anything before the first token gives one
pair less than there are tokens, and the first token stays as it is.

Reference: Zhai et al., "Normalizing Flows are Capable Generative Models", 2024, https://arxiv.org/abs/2412.06329.
"""

import torch
from torch.nn.functional import pad

from nfkern.kernels.affine.transform import AffineMap


def causal_affine(
    x: torch.Tensor, pairs: torch.Tensor, log_det: torch.Tensor, flipped: bool, scale_bound: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, T, D), (rows, T or T - 1, 2, D), (rows) -> z (rows, T, D), and log_det with this map's added (rows)."""
    x = x.contiguous()
    affine = _aligned(x, pairs, flipped, scale_bound)
    return affine.forward(x), log_det + affine.log_det().sum((1, 2))


def causal_affine_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    x: torch.Tensor,
    pairs: torch.Tensor,
    flipped: bool,
    scale_bound: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x (rows, T, D) and of the pairs; that of the running log_det is grad_log_det itself."""
    affine = _aligned(x, pairs, flipped, scale_bound)
    grad_x, grads = affine.forward_vjp(x.contiguous(), grad.contiguous(), grad_log_det[:, None, None])
    grad_pairs = torch.stack(grads, 2)
    grad_pairs = grad_pairs.flip(1) if flipped else grad_pairs
    return grad_x, grad_pairs[:, x.shape[1] - pairs.shape[1] :].contiguous()


def _aligned(x: torch.Tensor, pairs: torch.Tensor, flipped: bool, scale_bound: float | None) -> AffineMap:
    """The map of every token, (rows, T, D), in the order of x; without a pair, the identity."""
    pairs = pad(pairs, (0, 0, 0, 0, x.shape[1] - pairs.shape[1], 0))
    return AffineMap.of((pairs.flip(1) if flipped else pairs).unbind(2), scale_bound)
