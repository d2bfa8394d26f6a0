"""The causal flow's ops on the C++ extension; each function equals its namesake in the reference.

Weights are read as they lie, as for the coupling flow. The score takes a block's tokens from the extension and its
derivative from the reference. A token that is not finite spoils what comes after it; in the reference, whose attention
multiplies what is masked by zero, the rest of its sequence too.
"""

import torch

from nfkern.kernels.causal import sampling
from nfkern.kernels.causal.parameters import HIDDEN, CausalParameters
from nfkern.kernels.causal.reference import Settings, Tensors
from nfkern.kernels.dispatch.native_extension import call_reasons, load

BF16 = torch.bfloat16


def reasons(x: torch.Tensor, settings: Settings, *_: object) -> list[str]:
    """Return the reasons for which a call of a causal op cannot run on the CPU kernels; empty if it can."""
    found, compute_dtype = call_reasons(x), settings.compute_dtype
    if compute_dtype not in (None, x.dtype) and (compute_dtype, x.dtype) != (BF16, torch.float32):
        found.append(f"compute_dtype {compute_dtype}: the kernels take that of x, or bfloat16 for float32")
    return found


def sampling_reasons(
    z: torch.Tensor,
    settings: Settings,
    unconditional_term: torch.Tensor | None,
    guidance: float,
    annealed: bool,
    tolerance: float | None,
) -> list[str]:
    """Return the reasons for which a call of `to_data` cannot run on the CPU kernels; empty if it can."""
    found = reasons(z, settings)
    if tolerance is not None:
        found.append("method jacobi: the kernels go token by token")
    return found


def to_latent(
    x: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    keep_hidden: bool = False,
) -> Tensors:
    """Data to noise."""
    return _map(False, x, context_term, parameters, settings, keep_hidden=keep_hidden)


def to_data(
    z: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    unconditional_term: torch.Tensor | None = None,
    guidance: float = 0.0,
    annealed: bool = False,
    tolerance: float | None = None,
) -> Tensors:
    """Noise to data, token by token."""
    return _map(True, z, context_term, parameters, settings, unconditional_term, guidance, annealed)[:2]


def to_data_with_score(
    z: torch.Tensor, context_term: torch.Tensor, parameters: CausalParameters, settings: Settings
) -> Tensors:
    """Noise to data with the score."""
    x, log_det, results, _ = _map(True, z, context_term, parameters, settings)
    return x, log_det, sampling.carried_score(z, results.unbind(0), context_term, parameters, settings)


def _map(
    to_data: bool,
    x: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    unconditional_term: torch.Tensor | None = None,
    guidance: float = 0.0,
    annealed: bool = False,
    keep_hidden: bool = False,
) -> Tensors:
    heads, prefix, norm_eps, scale_bound, compute_dtype = settings
    weights = {name: getattr(parameters, name) for name in HIDDEN}
    dtypes = {weight.dtype for weight in weights.values()}
    if compute_dtype == BF16 and dtypes == {torch.float32}:
        parameters = parameters._replace(**{name: weight.to(BF16) for name, weight in weights.items()})
    elif compute_dtype != BF16 and BF16 in dtypes:
        raise TypeError(f"parameters: expected weights in {x.dtype}, got {dtypes}")
    settled = (heads, prefix, norm_eps, scale_bound)
    leaning = (unconditional_term, guidance, annealed)
    results: Tensors = load().causal_map(to_data, x, context_term, parameters, *settled, *leaning, keep_hidden)
    return results
