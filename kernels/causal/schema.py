"""The causal flow's ops' schemas, which are flat, and their results' shapes without data."""

from collections.abc import Callable
from typing import Any

import torch

from nfkern.kernels.causal.parameters import CausalParameters
from nfkern.kernels.causal.reference import Settings
from nfkern.kernels.dispatch.registry import gathered

PARAMETER_COUNT = len(CausalParameters._fields)
PARAMETERS = ", ".join(f"Tensor {name}" for name in CausalParameters._fields)
SETTINGS = "int heads, bool prefix, float norm_eps, float? scale_bound, ScalarType? compute_dtype"


def unflattened(function: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """Gather the parameters that follow the first `tensors` arguments, and the settings that follow them."""
    return gathered(function, tensors, CausalParameters, Settings)


def fake(x: torch.Tensor, context_term: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    """The results of `to_latent`."""
    after = PARAMETER_COUNT + len(Settings._fields)
    settings, keep_hidden = Settings(*rest[PARAMETER_COUNT:after]), any(rest[after:])
    blocks, layers, hidden, width = CausalParameters(*rest[:PARAMETER_COUNT]).up_weight.shape
    length = x.shape[1] - 1 + settings.prefix
    kept = (blocks, layers, x.shape[0] * length * (5 * width + hidden)) if keep_hidden else (0,)
    return x.new_empty(x.shape), x.new_empty(x.shape[:1]), x.new_empty((blocks, *x.shape)), x.new_empty(kept)


def fake_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, ...]:
    """The derivative's results."""
    parameter_grads, others = rest[PARAMETER_COUNT + len(Settings._fields)], (context_term, *rest[:PARAMETER_COUNT])
    shapes = [other.shape if parameter_grads else (0,) for other in others]
    return (grad.new_empty(grad.shape), *(grad.new_empty(shape) for shape in shapes))
