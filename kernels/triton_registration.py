"""Registration of the Triton kernels, and the reasons why a call runs on the reference instead."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from nfkern.kernels.causal.parameters import CausalParameters
from nfkern.kernels.causal.reference import Settings
from nfkern.kernels.causal.schema import unflattened as causal_unflattened
from nfkern.kernels.coupling.parameters import CouplingParameters
from nfkern.kernels.coupling.schema import unflattened
from nfkern.kernels.registry import Native, implement
from nfkern.kernels.seeds import over_seeds
from nfkern.kernels.triton_backend import device_reasons, on_its_device

MAX_FEATURES, MAX_WIDTH, MAX_HEAD = 64, 1024, 256
HIDDEN_DTYPES = (None, torch.float32, torch.bfloat16, torch.float16)


def any_size(tensor: torch.Tensor) -> list[str]:
    """Why no Triton kernel takes a tensor of any size; empty if they do."""
    reasons = [] if tensor.dtype == torch.float32 else [f"{tensor.dtype}: the kernels take float32"]
    return reasons if tensor.numel() else [*reasons, "no rows"]


def tensor_reasons(tensor: torch.Tensor) -> list[str]:
    """Why no Triton kernel takes a tensor, (..., features); empty if they do."""
    if tensor.shape[-1] <= MAX_FEATURES:
        return any_size(tensor)
    return [f"{tensor.shape[-1]} features: the kernels hold up to {MAX_FEATURES}", *any_size(tensor)]


def coupling_reasons(x: torch.Tensor, parameters: CouplingParameters, compute_dtype: torch.dtype | None) -> list[str]:
    """Why a call of a coupling op cannot run on Triton kernels; empty if it can.

    Args:
        x: (rows, features), or with seeds in front as everything else then has.
        parameters: the stacked conditioners.
        compute_dtype: of the hidden products.
    """
    reasons = [*tensor_reasons(x), *_dtype_reasons(compute_dtype)]
    widths = tuple(parameters.hidden_weight.shape[-2:])
    if max(widths) > MAX_WIDTH:
        reasons.append(f"hidden widths {widths}: the kernels hold up to {MAX_WIDTH}")
    return reasons


def causal_reasons(
    x: torch.Tensor, parameters: CausalParameters, settings: Settings, tolerance: float | None = None
) -> list[str]:
    """The same for a causal op.

    Args:
        x: (rows, tokens, features), or with seeds in front as everything else then has.
        parameters: the stacked transformers.
        settings: of the maps.
        tolerance: where a Jacobi iteration stops; None for none.
    """
    reasons, size = [*tensor_reasons(x), *_dtype_reasons(settings.compute_dtype)], parameters.position.shape[-1]
    if size // settings.heads > MAX_HEAD:
        reasons.append(f"heads of {size // settings.heads}: the kernels hold up to {MAX_HEAD}")
    if tolerance is not None:
        reasons.append("method jacobi: the host decides after each iteration, and the kernels go token by token")
    return reasons


def _dtype_reasons(compute_dtype: torch.dtype | None) -> list[str]:
    if compute_dtype in HIDDEN_DTYPES:
        return []
    return [f"compute_dtype {compute_dtype}: the kernels take float32, bfloat16 and float16"]


def _coupling(module: str, function: str, tensors: int) -> Native:
    """A kernel with `tensors` arguments before the parameters; the settings follow these."""
    after = tensors + len(CouplingParameters._fields)
    # Up to `compute_dtype`, or of a derivative, `parameter_grads`: these kernels keep no hidden activations.
    known = after + (4 if function.endswith("backward") else 3)

    def reasons(*args: Any) -> list[str]:
        return coupling_reasons(args[0], CouplingParameters(*args[tensors:after]), args[after + 2])

    load = _loader(f"coupling.{module}", function, functools.partial(unflattened, tensors=tensors))

    def load_known() -> Callable[..., Any]:
        kernel = load()
        if tensors != 4:
            return lambda *args: kernel(*args[:known])
        return lambda *args: (*kernel(*args[:known]), args[0].new_empty(0))

    return Native(load_known, device_reasons, reasons)


def _causal(function: str) -> Native:
    """A kernel that takes an event, the context term, parameters and settings; seeds go one after the other."""
    after = 2 + len(CausalParameters._fields)

    def reasons(*args: Any) -> list[str]:
        settings, more = Settings(*args[after : after + len(Settings._fields)]), args[after + len(Settings._fields) :]
        # Of `to_latent`, whether to keep hidden activations; of `to_data`, guidance in three arguments, the tolerance.
        found = causal_reasons(args[0], CausalParameters(*args[2:after]), settings, *more[3:])
        return [*found, "keep_hidden: the kernels keep nothing"] if function == "to_latent" and any(more) else found

    gather = functools.partial(causal_unflattened, tensors=2)
    load = _loader("causal.triton_launch", function, gather)
    return Native(lambda: over_seeds(load(), 3), device_reasons, reasons)


def _simple(
    module: str, function: str, place: int, reasons: Callable[[torch.Tensor], list[str]] = tensor_reasons
) -> Native:
    """A kernel whose argument number `place` decides."""
    return Native(_loader(f"{module}.triton_launch", function), device_reasons, lambda *args: reasons(args[place]))


def _loader(
    module: str, function: str, gather: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda found: found
) -> Callable[[], Callable[..., Any]]:
    """Triton is imported when a kernel first runs, never with the package; `gather` makes flat arguments fit."""

    @functools.cache
    def load() -> Callable[..., Any]:
        found = getattr(importlib.import_module(f"nfkern.kernels.{module}"), function)
        return on_its_device(gather(found))

    return load


def register() -> None:
    """Give every op its Triton kernel; called once, when all ops are defined."""
    kernels = {
        "standard_normal_log_prob": _simple("base", "standard_normal_log_prob", 0),
        "standard_normal_log_prob_backward": _simple("base", "standard_normal_log_prob_backward", 1),
        "causal_affine": _simple("causal_affine", "causal_affine", 0, any_size),
        "causal_affine_backward": _simple("causal_affine", "causal_affine_backward", 0, any_size),
        "plu_compose": _simple("plu", "compose", 0),
        "plu_compose_backward": _simple("plu", "compose_backward", 2),
        "coupling_to_latent": _coupling("triton_launch", "to_latent", 4),
        "coupling_to_data": _coupling("triton_launch", "to_data", 4),
        "coupling_to_latent_backward": _coupling("triton_derivatives", "to_latent_backward", 5),
        "coupling_to_data_backward": _coupling("triton_derivatives", "to_data_backward", 5),
        "coupling_to_data_with_score": _coupling("triton_derivatives", "to_data_with_score", 5),
        "causal_flow_to_latent": _causal("to_latent"),
        "causal_flow_to_data": _causal("to_data"),
        "causal_flow_to_data_with_score": _causal("to_data_with_score"),
    }
    for name, native in kernels.items():
        implement(name, "cuda", native)
