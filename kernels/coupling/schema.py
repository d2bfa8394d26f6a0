"""The coupling ops' schemas, which are flat, and their results' shapes without data."""

from collections.abc import Callable
from typing import Any

import torch

from nfkern.kernels.coupling.conditioner import kept_panels
from nfkern.kernels.coupling.parameters import CouplingParameters, Settings
from nfkern.kernels.dispatch.registry import gathered

PARAMETER_COUNT = len(CouplingParameters._fields)
SETTINGS_END = PARAMETER_COUNT + len(Settings._fields)
_NORMS = tuple(name for name in CouplingParameters._fields if name.startswith("norm"))
PARAMETERS = ", ".join(f"Tensor{'?' * (name in _NORMS)} {name}" for name in CouplingParameters._fields)
SETTINGS = "float norm_eps, float? scale_bound, ScalarType? compute_dtype"


def unflattened(function: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """Gather the parameters that follow the first `tensors` arguments, and the settings that follow them."""
    return gathered(function, tensors, CouplingParameters, Settings)


def fake(x: torch.Tensor, context_term: torch.Tensor, mixing: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    """A map's results."""
    *_, width2, width1 = CouplingParameters(*rest[1 : 1 + PARAMETER_COUNT]).hidden_weight.shape
    blocks, rows, keep_hidden = mixing.shape[0], x.shape[0], any(rest[1 + SETTINGS_END :])
    panels, lanes = kept_panels(rows, x.dtype)
    hidden = x.new_empty((blocks, 2, panels, width1 + width2, lanes) if keep_hidden else 0)
    return x.new_empty(x.shape), x.new_empty((rows,)), x.new_empty((blocks, *x.shape)), hidden


def fake_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, ...]:
    """A derivative's results."""
    parameters = CouplingParameters(*rest[:PARAMETER_COUNT])
    others = (context_term, mixing, *parameters)
    if not rest[SETTINGS_END]:
        return (grad.new_empty(grad.shape), *(grad.new_empty(0) for _ in others))
    if parameters.folded:
        empty = (grad.new_empty(0) for _ in range(PARAMETER_COUNT))
        return (grad.new_empty(grad.shape), *(other.new_empty(other.shape) for other in others[:2]), *empty)
    return (grad.new_empty(grad.shape), *(other.new_empty(other.shape) for other in others if other is not None))
