r"""AdamW on hidden weights whose gradient is a product over the batch: its definition.

With the factors g (rows, h2) and n (rows, h1) of a net, and its LayerNorm's weight and bias,

.. math:: A = g^T n, \quad \nabla W = A \, \mathrm{diag}(\gamma) + (\textstyle\sum g)\, \beta^T, \quad
          \nabla\gamma = \text{column sums of } A \odot W.

Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, https://arxiv.org/abs/1711.05101.
"""

from typing import NamedTuple

import torch


class AdamWSettings(NamedTuple):
    """Of one step, as in `torch.optim.AdamW`; the step counts from 1 and is a tensor, (), on the weights' device."""

    step: torch.Tensor
    learning_rate: torch.Tensor
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


def adamw_from_factors(
    weight: torch.Tensor,
    first_moment: torch.Tensor,
    second_moment: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    grad2: torch.Tensor,
    normalized1: torch.Tensor,
    settings: AdamWSettings,
) -> torch.Tensor:
    """Step `weight` (..., h2, h1) and its moments in place; returns the gradient of norm_weight, (..., h1)."""
    # Factors may have 16 bits; their product is summed, and given, in the weights' precision.
    outer = grad2.mT.to(weight.dtype) @ normalized1.to(weight.dtype)
    sums = grad2.sum(-2, dtype=weight.dtype)
    norm_grad = (outer * weight).sum(-2)
    grad = outer * norm_weight.unsqueeze(-2) + sums.unsqueeze(-1) * norm_bias.unsqueeze(-2)
    s = settings
    # In float64: 1 - 0.999^step cancels.
    correction1, correction2 = (1 - beta ** s.step.double() for beta in (s.beta1, s.beta2))
    first_moment.lerp_(grad, 1 - s.beta1)
    second_moment.mul_(s.beta2).addcmul_(grad, grad, value=1 - s.beta2)
    update = first_moment / (second_moment / correction2).sqrt().add_(s.eps)
    weight.mul_(1 - s.learning_rate * s.weight_decay).sub_(update * (s.learning_rate / correction1))
    return norm_grad
