r"""Causal affine coupling: its definition.

In the block's order of tokens, :math:`z_t = (x_t - \mathrm{shift}_t) \, e^{-\mathrm{log\_scale}_t}`, where the pair of
token t was computed from the tokens before t. A conditioner that has not seen anything before the first token gives one
pair less than there are tokens, and the first token stays as it is.

Reference: Zhai et al., "Normalizing Flows are Capable Generative Models", 2024, https://arxiv.org/abs/2412.06329.
"""

import torch
from torch.nn.functional import pad


def causal_affine(
    x: torch.Tensor, pairs: torch.Tensor, log_det: torch.Tensor, flipped: bool, scale_bound: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, T, D), (rows, T or T - 1, 2, D), (rows) -> z (rows, T, D), and log_det with this map's added (rows)."""
    x = x.contiguous()
    log_scale, shift = _aligned(x, pairs, flipped, scale_bound)
    return (x - shift) * torch.exp(-log_scale), log_det - log_scale.sum((1, 2))


def causal_affine_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    x: torch.Tensor,
    pairs: torch.Tensor,
    flipped: bool,
    scale_bound: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of x (rows, T, D) and of the pairs; that of the running log_det is grad_log_det itself."""
    log_scale, shift = _aligned(x, pairs, flipped, scale_bound)
    x, grad = x.contiguous(), grad.contiguous()
    # dz/dx = e^-log_scale, dz/dlog_scale = -z, and log_det loses log_scale
    grad_x = grad * torch.exp(-log_scale)
    grad_log_scale = -grad_x * (x - shift) - grad_log_det[:, None, None]
    if scale_bound is not None:
        grad_log_scale = grad_log_scale * (1 - (log_scale / scale_bound).square())
    both = torch.stack([grad_log_scale, -grad_x], 2)
    both = both.flip(1) if flipped else both
    return grad_x, both[:, x.shape[1] - pairs.shape[1] :].contiguous()


def bounded(log_scale: torch.Tensor, bound: float | None) -> torch.Tensor:
    """log_scale within (-bound, bound), smoothly; the published flow has no bound."""
    return log_scale if bound is None else bound * torch.tanh(log_scale / bound)


def _aligned(
    x: torch.Tensor, pairs: torch.Tensor, flipped: bool, scale_bound: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """log_scale and shift of every token, (rows, T, D) each, in the order of x."""
    pairs = pad(pairs, (0, 0, 0, 0, x.shape[1] - pairs.shape[1], 0))
    log_scale, shift = (pairs.flip(1) if flipped else pairs).unbind(2)
    return bounded(log_scale, scale_bound), shift
