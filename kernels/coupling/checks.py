"""Checks of the coupling ops: arguments that do not belong together and settings out of range are refused."""

import torch

from nfkern.kernels.coupling.conditioner import kept_panels
from nfkern.kernels.coupling.parameters import CouplingParameters, Settings
from nfkern.kernels.dispatch.checks import (
    check_floating,
    check_groups,
    check_like,
    check_norm_eps,
    check_scale_bound,
    check_tensor,
)


def check_map(
    name: str,
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    mixing_log_det: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    keep_hidden: bool = False,
) -> None:
    """Check the arguments of `to_latent` and `to_data`, whose events are called `name`."""
    _check(name, x, context_term, mixing, parameters, settings)
    check_tensor("mixing_log_det", mixing_log_det, ())
    check_like("mixing_log_det", mixing_log_det, x, name)


def check_score(
    z: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    inverse_mixing: torch.Tensor,
    inverse_log_det: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
) -> None:
    """Check the arguments of `to_data_with_score`."""
    _check("z", z, context_term, mixing, parameters, settings)
    check_tensor("inverse_mixing", inverse_mixing, mixing.shape)
    check_tensor("inverse_log_det", inverse_log_det, ())
    check_like("inverse_mixing", inverse_mixing, z, "z")
    check_like("inverse_log_det", inverse_log_det, z, "z")


def check_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    parameter_grads: bool,
    hidden: torch.Tensor | None = None,
) -> None:
    """Check the arguments of the maps' derivatives."""
    _check("grad", grad, context_term, mixing, parameters, settings)
    (rows, _), (blocks, _, width2, width1) = grad.shape, parameters.hidden_weight.shape
    check_tensor("grad_log_det", grad_log_det, (rows,))
    check_tensor("inputs", inputs, (blocks, *grad.shape))
    check_like("grad_log_det", grad_log_det, grad, "grad")
    check_like("inputs", inputs, grad, "grad")
    if hidden is not None:
        panels, lanes = kept_panels(rows, grad.dtype)
        check_tensor("hidden", hidden, (blocks, 2, panels, width1 + width2, lanes))
        check_like("hidden", hidden, grad, "grad")


def _check(
    name: str,
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
) -> None:
    check_tensor("mixing", mixing, ("blocks", "features", "features"))
    blocks, _, features = mixing.shape
    check_tensor("mixing", mixing, (blocks, features, features))
    if not blocks:
        raise ValueError(f"mixing: expected at least one block, got shape {tuple(mixing.shape)}")
    check_tensor(name, x, ("rows", features))
    check_floating(name, x)
    check_like("mixing", mixing, x, name)
    parameters.check(x, blocks, settings.compute_dtype)
    check_tensor("context_term", context_term, ("groups", blocks, 2, parameters.hidden_weight.shape[-1]))
    check_groups("context_term", context_term.shape[0], x.shape[0], context_term.shape)
    check_like("context_term", context_term, x, name)
    check_norm_eps(settings.norm_eps)
    check_scale_bound(settings.scale_bound, x.dtype)
