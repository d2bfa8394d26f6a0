r"""The conditioner of one coupling block, and its derivative.

Two networks side by side give (log_scale, shift) from the kept features `a` and the projected context `c`:

.. math:: p_1 = W_1 a + c, \quad p_2 = W_2 \mathrm{LN}_1(\phi(p_1)) + b_2, \quad o = W_3 \mathrm{LN}_2(\phi(p_2)) + b_3

with :math:`\phi` = LeakyReLU(0.01); of a folded set, LN has no weight and bias. Only the product with `W_2` may drop
precision (`compute_dtype`).
"""

from typing import NamedTuple

import torch
from torch.nn.functional import leaky_relu, pad

from nfkern.kernels.coupling.parameters import CouplingParameters, Settings
from nfkern.kernels.dispatch.op_transforms import in_transform
from nfkern.kernels.layer_norm import layer_norm, layer_norm_backward

NEGATIVE_SLOPE = 0.01


class Normalized(NamedTuple):
    """A hidden layer's activation with what LayerNorm's derivative needs."""

    activation: torch.Tensor  # (2, rows, width)
    normalized: torch.Tensor  # (2, rows, width), before LayerNorm's own weight and bias
    mean: torch.Tensor  # (2, rows, 1)
    rstd: torch.Tensor  # (2, rows, 1)


Layers = tuple[Normalized, Normalized]


def conditioner(
    kept: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    hidden: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Layers]:
    """(rows, kept), one of `expand_context` -> the pair (2, rows, transformed), and both hidden layers.

    With `hidden`, what `activations` kept of a call on the same arguments, only the last product is computed again.
    """
    p, rows, width, norm_eps = parameters, kept.shape[0], parameters.input_weight.shape[1], settings.norm_eps
    if hidden is None:
        # Copies only where several groups are shared by several rows each.
        term = context_term.reshape(2, rows, width)
        first = _normalize(
            leaky_relu(_bmm(kept.expand(2, *kept.shape), p.input_weight.mT, term), NEGATIVE_SLOPE), norm_eps
        )
        scaled = _affine(first.normalized, p.norm1_weight, p.norm1_bias)
        product = _product(scaled, p.hidden_weight.mT, settings.compute_dtype, p.hidden_bias)
        second = _normalize(leaky_relu(product, NEGATIVE_SLOPE), norm_eps)
    else:
        by_row = hidden.mT.flatten(1, 2)[:, :rows]
        first, second = (_normalize(each.contiguous(), norm_eps) for each in (by_row[..., :width], by_row[..., width:]))
    scaled = _affine(second.normalized, p.norm2_weight, p.norm2_bias)
    return _bmm(scaled, p.output_weight.mT, p.output_bias), (first, second)


def activations(layers: Layers) -> torch.Tensor:
    """Both hidden layers' activations as a forward pass keeps them, (2, panels, h1 + h2, lanes): see `kept_panels`."""
    both = torch.cat([layer.activation for layer in layers], -1)
    panels, lanes = kept_panels(both.shape[1], both.dtype)
    by_panel: torch.Tensor = pad(both, (0, 0, 0, panels * lanes - both.shape[1])).unflatten(1, (panels, lanes))
    return by_panel.mT


def kept_panels(rows: int, dtype: torch.dtype) -> tuple[int, int]:
    """Numbers of panels and of their rows; in a panel, a unit's activations of all rows lie side by side."""
    lanes = max(1, min(rows, 128 // dtype.itemsize))
    return -(-rows // lanes), lanes


def expand_context(context_term: torch.Tensor, rows: int) -> tuple[torch.Tensor, ...]:
    """(groups, blocks, 2, h1) -> each block's (2, groups, rows / groups, h1); row r sees group r // (rows / groups)."""
    groups, blocks, _, width = context_term.shape
    each = context_term.permute(1, 2, 0, 3).unsqueeze(3)
    return each.expand(blocks, 2, groups, rows // max(groups, 1), width).unbind(0)


def conditioner_backward(
    grad: torch.Tensor,
    kept: torch.Tensor,
    groups: int,
    layers: Layers,
    parameters: CouplingParameters,
    compute_dtype: torch.dtype | None,
    parameter_grads: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, CouplingParameters | None]:
    """Gradients of the kept features (rows, kept), the context term (groups, 2, h1) and the parameters.

    LayerNorm's weight is folded into the product that follows it, so that its gradients come out of products of
    weights and never need another pass over the batch. A folded set's own weights get no gradients.
    """
    p, (first, second) = parameters, layers
    grad2 = _normalize_backward(_bmm(grad, _scaled(p.output_weight, p.norm2_weight)), second)
    grad1 = _normalize_backward(_product(grad2, _scaled(p.hidden_weight, p.norm1_weight), compute_dtype), first)
    grad_kept = _bmm(grad1, p.input_weight).sum(0)
    if not parameter_grads:
        return grad_kept, None, None
    grad_term = grad1.unflatten(1, (groups, kept.shape[0] // max(groups, 1))).sum(2).transpose(0, 1)
    if p.folded:
        return grad_kept, grad_term, None
    grads = parameter_gradients(
        p,
        torch.bmm(grad1.mT, kept.expand(2, *kept.shape)),
        _product(grad2.mT, first.normalized, compute_dtype),
        torch.bmm(grad.mT, second.normalized),
        grad2.sum(1, keepdim=True),
        grad.sum(1, keepdim=True),
    )
    return grad_kept, grad_term, grads


def parameter_gradients(
    p: CouplingParameters,
    input_grad: torch.Tensor,
    outer1: torch.Tensor,
    outer2: torch.Tensor,
    sums2: torch.Tensor,
    sums3: torch.Tensor,
) -> CouplingParameters:
    """Gradients of the parameters, from those of the products' operands.

    Args:
        p: parameters, not folded, as `CouplingParameters.shaped` gives them, with any leading dimensions.
        input_grad: (..., h1, kept), the gradient of input_weight.
        outer1: (..., h2, h1), gradients of p2 times normalised activations, summed over rows.
        outer2: (..., transformed, h2), the same of the output.
        sums2: (..., 1, h2), gradients of p2 summed over rows.
        sums3: (..., 1, transformed), the same of the output.
    """
    if p.norm1_weight is None or p.norm1_bias is None or p.norm2_weight is None or p.norm2_bias is None:
        raise ValueError(
            "p: expected LayerNorm's weights and biases, got a folded set, whose weights have no gradients"
        )
    return CouplingParameters(
        input_weight=input_grad,
        norm1_weight=(outer1 * p.hidden_weight).sum(-2),
        norm1_bias=torch.matmul(sums2, p.hidden_weight).squeeze(-2),
        hidden_weight=_unfold(outer1, p.norm1_weight, sums2, p.norm1_bias),
        hidden_bias=sums2.squeeze(-2),
        norm2_weight=(outer2 * p.output_weight).sum(-2),
        norm2_bias=torch.matmul(sums3, p.output_weight).squeeze(-2),
        output_weight=_unfold(outer2, p.norm2_weight, sums3, p.norm2_bias),
        output_bias=sums3.squeeze(-2),
    )


def _normalize(activation: torch.Tensor, eps: float) -> Normalized:
    """LayerNorm without its weight and bias."""
    return Normalized(activation, *layer_norm(activation, None, None, eps))


def _normalize_backward(grad: torch.Tensor, layer: Normalized) -> torch.Tensor:
    """Derivative of LeakyReLU and `_normalize`; the activation has the sign of the preactivation, hence the slope."""
    through_norm, *_ = layer_norm_backward(grad, layer.activation, layer.mean, layer.rstd)
    grad_preactivation: torch.Tensor = torch.ops.aten.leaky_relu_backward(
        through_norm, layer.activation, NEGATIVE_SLOPE, True
    )
    return grad_preactivation


def _affine(normalized: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
    """LayerNorm's own weight and bias, where they are not folded into the next product."""
    return normalized if weight is None or bias is None else torch.addcmul(bias, normalized, weight)


def _scaled(weight: torch.Tensor, norm_weight: torch.Tensor | None) -> torch.Tensor:
    return weight if norm_weight is None else weight * norm_weight


def _product(
    left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype | None, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """A batch of products in `dtype`, returned in the operands' own dtype, in which bias (2, 1, columns) is added."""
    if dtype is not None and dtype != left.dtype:
        product = _bmm(left.to(dtype), right.to(dtype)).to(left.dtype)
        return product if bias is None else product + bias
    return _bmm(left, right, bias)


def _bmm(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Both networks' products, (2, rows, in) and (2, in, out), and their bias.

    In a transform one by one: `torch.vmap` over rows would copy the weights of a batch of products for each row.
    """
    if in_transform((left, right)):
        product = torch.stack([each @ weight for each, weight in zip(left.unbind(0), right.unbind(0), strict=True)])
        return product if bias is None else product + bias
    return torch.bmm(left, right) if bias is None else torch.baddbmm(bias, left, right)


def _unfold(outer: torch.Tensor, weight: torch.Tensor, sums: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Gradient of a weight that multiplies `weight * n + bias`, from that of one that multiplies n."""
    return torch.addcmul(outer * weight, sums.mT, bias)
