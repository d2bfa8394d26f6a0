r"""The transformer of one block of a causal flow, and its derivative.

Layers of the published form, with LayerNorm before attention and before the MLP:

.. math:: h \leftarrow h + W_p \, \mathrm{attention}(W_{qkv} \mathrm{LN}(h)), \quad
          h \leftarrow h + W_d \, \mathrm{GELU}(W_u \mathrm{LN}(h))

each product with a bias. Position t attends to itself and what is before it. Only the four products may drop precision
(`compute_dtype`); LayerNorm, softmax and sums do not.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import gelu

from nfkern.kernels.causal.parameters import LayerParameters
from nfkern.kernels.layer_norm import layer_norm, layer_norm_backward


class Cache(NamedTuple):
    """Keys and values of one layer, (rows, heads, positions, width / heads), filled from the first position on.

    Where nothing is filled in yet they are finite.
    """

    keys: torch.Tensor
    values: torch.Tensor


class Kept(NamedTuple):
    """Results of a layer's products, kept so that the derivative multiplies nothing again."""

    qkv: torch.Tensor  # (rows, S, 3 width)
    middle: torch.Tensor  # (rows, S, width)
    up: torch.Tensor  # (rows, S, hidden)
    result: torch.Tensor  # (rows, S, width)

    def flat(self) -> torch.Tensor:
        """Return all results one after the other, (rows * S * (5 width + hidden))."""
        return torch.cat([each.flatten() for each in self])

    @classmethod
    def of(cls, flat: torch.Tensor, rows: int, width: int, hidden: int) -> "Kept":
        """Undo `flat`."""
        sizes = (3 * width, width, hidden, width)
        places = flat.numel() // sum(sizes)
        parts = flat.split([places * size for size in sizes])
        return cls(*(part.view(rows, -1, size) for part, size in zip(parts, sizes, strict=True)))


class Saved(NamedTuple):
    """Results of a layer's forward pass that its derivative needs."""

    kept: Kept
    x: torch.Tensor  # (rows, S, width), its input
    attention_norm: tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # LN(x), mean, rstd
    queries: torch.Tensor  # (rows, heads, S, width / heads), and so on
    keys: torch.Tensor
    values: torch.Tensor
    weights: torch.Tensor  # (rows, heads, S, S)
    attended: torch.Tensor  # (rows, S, width)
    mlp_norm: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    activated: torch.Tensor  # (rows, S, hidden)


def layer(
    x: torch.Tensor,
    parameters: LayerParameters,
    heads: int,
    norm_eps: float,
    compute_dtype: torch.dtype | None,
    cache: Cache | None = None,
    position: torch.Tensor | int = 0,
    kept: Kept | None = None,
) -> tuple[torch.Tensor, Saved]:
    """(rows, S, width) -> (rows, S, width).

    With a cache, x is a single position, and attends to what the cache has of those before; the cache with its own keys
    and values is in `Saved`. What has been kept is taken as it is.
    """
    p, length = parameters, x.shape[1]
    attention_norm = layer_norm(x, p.attention_norm_weight, p.attention_norm_bias, norm_eps)
    qkv = _product(attention_norm[0], p.qkv_weight.mT, compute_dtype) + p.qkv_bias if kept is None else kept.qkv
    queries, keys, values = _by_head(qkv.unflatten(-1, (3, -1)).movedim(-2, 0), heads).unbind(0)
    if cache is None:
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    else:
        places = torch.arange(cache.keys.shape[2], device=x.device)
        keys, values = (
            torch.where((places == position)[:, None], new, old) for new, old in zip((keys, values), cache, strict=True)
        )
        later = places > position
    scores = (queries @ keys.mT) * queries.shape[-1] ** -0.5
    weights = torch.softmax(scores.masked_fill(later, -torch.inf), -1)
    attended = _together(weights @ values)
    if kept is None:
        middle = x + (_product(attended, p.projection_weight.mT, compute_dtype) + p.projection_bias)
    else:
        middle = kept.middle
    mlp_norm = layer_norm(middle, p.mlp_norm_weight, p.mlp_norm_bias, norm_eps)
    up = _product(mlp_norm[0], p.up_weight.mT, compute_dtype) + p.up_bias if kept is None else kept.up
    activated = gelu(up)
    if kept is None:
        result = middle + (_product(activated, p.down_weight.mT, compute_dtype) + p.down_bias)
        kept = Kept(qkv, middle, up, result)
    return kept.result, Saved(kept, x, attention_norm, queries, keys, values, weights, attended, mlp_norm, activated)


def layer_backward(
    grad: torch.Tensor,
    saved: Saved,
    parameters: LayerParameters,
    compute_dtype: torch.dtype | None,
    parameter_grads: bool,
) -> tuple[torch.Tensor, LayerParameters | None]:
    """Gradients of a layer's input, without a cache, and of its parameters."""
    p, s, aten = parameters, saved, torch.ops.aten
    grad_up = aten.gelu_backward(_product(grad, p.down_weight, compute_dtype), s.kept.up)
    grad_normed = _product(grad_up, p.up_weight, compute_dtype)
    through, *mlp_norm_grads = layer_norm_backward(
        grad_normed, s.kept.middle, *s.mlp_norm[1:], p.mlp_norm_weight, p.mlp_norm_bias, parameter_grads
    )
    grad_middle = grad + through
    grad_attended = _by_head(_product(grad_middle, p.projection_weight, compute_dtype), s.queries.shape[1])
    grad_scores = aten._softmax_backward_data(grad_attended @ s.values.mT, s.weights, -1, s.weights.dtype)
    grad_scores = grad_scores * s.queries.shape[-1] ** -0.5
    by_head = (grad_scores @ s.keys, grad_scores.mT @ s.queries, s.weights.mT @ grad_attended)
    grad_qkv = torch.stack([part.transpose(1, 2) for part in by_head], 2).flatten(2)
    grad_normed = _product(grad_qkv, p.qkv_weight, compute_dtype)
    through, *attention_norm_grads = layer_norm_backward(
        grad_normed, s.x, *s.attention_norm[1:], p.attention_norm_weight, p.attention_norm_bias, parameter_grads
    )
    grad_x = grad_middle + through
    if not parameter_grads:
        return grad_x, None

    def outer(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return _product(left.flatten(0, 1).mT, right.flatten(0, 1), compute_dtype)

    def bias(grads: torch.Tensor) -> torch.Tensor:
        return grads.sum((0, 1))

    return grad_x, LayerParameters(
        attention_norm_weight=attention_norm_grads[0],
        attention_norm_bias=attention_norm_grads[1],
        qkv_weight=outer(grad_qkv, s.attention_norm[0]),
        qkv_bias=bias(grad_qkv),
        projection_weight=outer(grad_middle, s.attended),
        projection_bias=bias(grad_middle),
        mlp_norm_weight=mlp_norm_grads[0],
        mlp_norm_bias=mlp_norm_grads[1],
        up_weight=outer(grad_up, s.mlp_norm[0]),
        up_bias=bias(grad_up),
        down_weight=outer(grad, s.activated),
        down_bias=bias(grad),
    )


def _by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(..., S, width) -> (..., heads, S, width / heads), copied once instead of in each of its products."""
    by_head: torch.Tensor = x.unflatten(-1, (heads, -1))
    return by_head.transpose(-2, -3).contiguous()


def _together(x: torch.Tensor) -> torch.Tensor:
    """Undo `_by_head`."""
    return x.transpose(1, 2).flatten(2)


def _product(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A product in `dtype`, returned in the operands' own dtype."""
    if dtype is None or dtype == left.dtype:
        return left @ right
    return (left.to(dtype) @ right.to(dtype)).to(left.dtype)
