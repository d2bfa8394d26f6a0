"""The coupling flow's ops on the C++ extension; each function equals its namesake in `reference.py`.

Weights are read as they lie, by kernels made for PyTorch's own layout: nothing is packed ahead of a call, so there is
no cache that an optimiser, a Polyak update or an edit through `.data` could leave stale.
"""

from typing import Any

import torch

from nfkern.kernels.coupling.parameters import CouplingParameters, Settings
from nfkern.kernels.dispatch.native_extension import call_reasons, load

Tensors = tuple[torch.Tensor, ...]
BF16 = torch.bfloat16


def reasons(x: torch.Tensor, parameters: CouplingParameters, compute_dtype: torch.dtype | None) -> list[str]:
    """Return the reasons for which a call of a coupling op cannot run on the CPU kernels; empty if it can.

    Args:
        x: (rows, features), or with seeds in front as everything else then has.
        parameters: the stacked conditioners.
        compute_dtype: of the hidden products.
    """
    found, hidden = call_reasons(x), parameters.hidden_weight.dtype
    if hidden == BF16 and (compute_dtype != BF16 or not parameters.folded):
        found.append("hidden_weight in bfloat16: the kernels take that of folded sets for products in bfloat16")
    if compute_dtype not in (None, x.dtype) and (compute_dtype, x.dtype) != (BF16, torch.float32):
        found.append(f"compute_dtype {compute_dtype}: the kernels take that of x, or bfloat16 for float32")
    return found


def to_latent(*args: Any) -> Tensors:
    """Data to noise."""
    return _map(False, *args)


def to_data(*args: Any) -> Tensors:
    """Noise to data."""
    return _map(True, *args)


def _map(
    to_data: bool,
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    mixing_log_det: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    keep_hidden: bool = False,
) -> Tensors:
    settled = _settled(parameters, settings)
    given = (x, context_term, mixing, mixing_log_det)
    results: Tensors = load().coupling_map(to_data, *given, *settled, keep_hidden)
    return results


def to_data_with_score(
    z: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    inverse_mixing: torch.Tensor,
    inverse_log_det: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
) -> Tensors:
    """Noise to data with the score."""
    given = (z, context_term, mixing, inverse_mixing, inverse_log_det)
    results: Tensors = load().coupling_to_data_with_score(*given, *_settled(parameters, settings))
    return results


def to_latent_backward(*args: Any) -> Tensors:
    """Gradients of x and, if wanted, of everything else."""
    return _backward(False, *args)


def to_data_backward(*args: Any) -> Tensors:
    """Gradients of z and, if wanted, of everything else."""
    return _backward(True, *args)


def _backward(
    to_data: bool,
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    parameter_grads: bool,
    hidden: torch.Tensor | None = None,
) -> Tensors:
    given = (grad, grad_log_det, inputs, context_term, mixing)
    results = load().coupling_backward(to_data, *given, *_settled(parameters, settings), parameter_grads, hidden)
    return tuple(results)


def _settled(parameters: CouplingParameters, settings: Settings) -> tuple[CouplingParameters, float, float | None]:
    """The extension's arguments: `compute_dtype` is that of the hidden weight."""
    if settings.compute_dtype == BF16 and parameters.hidden_weight.dtype == torch.float32:
        parameters = parameters._replace(hidden_weight=parameters.hidden_weight.to(BF16))
    return parameters, settings.norm_eps, settings.scale_bound
