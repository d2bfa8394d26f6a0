"""The causal ops' kernels, and the reasons why a call runs on the reference instead."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from nfkern.kernels.causal.parameters import CausalParameters
from nfkern.kernels.causal.reference import Settings
from nfkern.kernels.causal.schema import PARAMETER_COUNT, unflattened
from nfkern.kernels.dispatch import native_extension
from nfkern.kernels.dispatch.registry import Kernel
from nfkern.kernels.dispatch.seeds import over_seeds
from nfkern.kernels.dispatch.triton_backend import dtype_reasons, tensor_reasons, triton_kernel

MAX_HEAD = 256
_AFTER = 2 + PARAMETER_COUNT
_SETTINGS_END = _AFTER + len(Settings._fields)


def cpu(function: Callable[..., Any], reasons: Callable[..., list[str]]) -> Kernel:
    """Return a function of `cpu_kernels` as an op's kernel; `reasons` takes x, the settings and what follows."""

    def call_reasons(*args: Any) -> list[str]:
        return reasons(args[0], Settings(*args[_AFTER:_SETTINGS_END]), *args[_SETTINGS_END:])

    kernel = over_seeds(unflattened(function, 2), 3)
    return Kernel(lambda: kernel, native_extension.device_reasons, call_reasons, safe=True)


def cuda(function: str) -> Kernel:
    """Return a Triton host function as an op's kernel; seeds go one after the other."""

    def reasons(*args: Any) -> list[str]:
        settings, more = Settings(*args[_AFTER:_SETTINGS_END]), args[_SETTINGS_END:]
        # More is `keep_hidden` for `to_latent`; guidance in three arguments and the tolerance for `to_data`.
        found = triton_reasons(args[0], CausalParameters(*args[2:_AFTER]), settings, *more[3:])
        return [*found, "keep_hidden: the kernels keep nothing"] if function == "to_latent" and any(more) else found

    gather = functools.partial(unflattened, tensors=2)
    return triton_kernel("causal.triton_launch", function, reasons, lambda found: over_seeds(gather(found), 3))


def triton_reasons(
    x: torch.Tensor, parameters: CausalParameters, settings: Settings, tolerance: float | None = None
) -> list[str]:
    """Return the reasons for which a call of a causal op cannot run on Triton kernels; empty if it can.

    Args:
        x: (rows, tokens, features), or with seeds in front as everything else then has.
        parameters: the stacked transformers.
        settings: of the maps.
        tolerance: where a Jacobi iteration stops; None for none.
    """
    reasons, size = [*tensor_reasons(x), *dtype_reasons(settings.compute_dtype)], parameters.position.shape[-1]
    if size // settings.heads > MAX_HEAD:
        reasons.append(f"heads of {size // settings.heads}: the kernels hold up to {MAX_HEAD}")
    if tolerance is not None:
        reasons.append("method jacobi: the host decides after each iteration, and the kernels go token by token")
    return reasons
