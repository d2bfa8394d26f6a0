"""A hidden layer after its product: bias, activation, and LayerNorm before or after that.

16-bit rows are computed in float32 and rounded once, at the end.
"""

import math

import torch

from nfkern.kernels.layer_norm import layer_norm

_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def hidden_activation(
    x: torch.Tensor,
    bias: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    norm_eps: float,
    activation: str,
    norm_first: bool,
) -> torch.Tensor:
    """(*members, rows, width), (*members, width) three times -> (*members, rows, width)."""
    entering = _wide(x) + _by_row(bias)
    if norm_weight is None or norm_bias is None:
        return _activate(entering, activation).to(x.dtype)
    if not norm_first:
        entering = _activate(entering, activation)
    normed = layer_norm(entering, None, None, norm_eps)[0] * _by_row(norm_weight) + _by_row(norm_bias)
    return (_activate(normed, activation) if norm_first else normed).to(x.dtype)


def hidden_activation_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor,
    norm_weight: torch.Tensor | None,
    norm_bias: torch.Tensor | None,
    norm_eps: float,
    activation: str,
    norm_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, bias, norm_weight and norm_bias; without LayerNorm the last two have no elements."""
    entering, grad = _wide(x) + _by_row(bias), _wide(grad)
    if norm_weight is None or norm_bias is None:
        grad = grad * _slope(entering, activation)
        nothing = bias.new_empty((*bias.shape[:-1], 0))
        return grad.to(x.dtype), grad.sum(-2).to(bias.dtype), nothing, nothing.clone()
    activated = entering if norm_first else _activate(entering, activation)
    centred = activated - activated.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + norm_eps)
    unit, scale = centred * rstd, _by_row(norm_weight)
    if norm_first:
        grad = grad * _slope(unit * scale + _by_row(norm_bias), activation)
    grad_weight, grad_shift, scaled = (grad * unit).sum(-2), grad.sum(-2), grad * scale
    along = (scaled * unit).mean(-1, keepdim=True)
    grad = rstd * (scaled - scaled.mean(-1, keepdim=True) - unit * along)
    if not norm_first:
        grad = grad * _slope(entering, activation)
    sums = grad.sum(-2).to(bias.dtype), grad_weight.to(norm_weight.dtype), grad_shift.to(norm_bias.dtype)
    return grad.to(x.dtype), *sums


def _wide(rows: torch.Tensor) -> torch.Tensor:
    """Return what is computed with; contiguous, so that results are."""
    return (rows.float() if rows.dtype.itemsize == 2 else rows).contiguous()


def _by_row(parameter: torch.Tensor) -> torch.Tensor:
    return _wide(parameter).unsqueeze(-2)


def _activate(x: torch.Tensor, activation: str) -> torch.Tensor:
    return torch.nn.functional.silu(x) if activation == "silu" else torch.nn.functional.gelu(x, approximate="tanh")


def _slope(x: torch.Tensor, activation: str) -> torch.Tensor:
    """Return the activation's derivative."""
    if activation == "silu":
        open_ = torch.sigmoid(x)
        return open_ * (1 + x * (1 - open_))
    # The tanh form of GELU is x sigmoid(2 u).
    open_ = torch.sigmoid(2 * _SCALE * (x + _CUBIC * x**3))
    return open_ + x * open_ * (1 - open_) * 2 * _SCALE * (1 + 3 * _CUBIC * x.square())
