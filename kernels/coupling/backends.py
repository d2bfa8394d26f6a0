"""The coupling ops' kernels, and the reasons why a call runs on the reference instead."""

from collections.abc import Callable
from typing import Any

import torch

from nfkern.kernels.coupling import cpu_kernels
from nfkern.kernels.coupling.parameters import CouplingParameters
from nfkern.kernels.coupling.schema import PARAMETER_COUNT, SETTINGS_END, unflattened
from nfkern.kernels.dispatch import native_extension
from nfkern.kernels.dispatch.registry import Kernel
from nfkern.kernels.dispatch.seeds import over_seeds
from nfkern.kernels.dispatch.triton_backend import dtype_reasons, tensor_reasons, triton_kernel

MAX_WIDTH = 1024


def cpu(function: Callable[..., Any], tensors: int) -> Kernel:
    """Return a function of `cpu_kernels` as an op's kernel; parameters and settings follow the first `tensors`."""

    def reasons(*args: Any) -> list[str]:
        return cpu_kernels.reasons(args[0], *_parameters_and_dtype(args[tensors:]))

    kernel = over_seeds(unflattened(function, tensors), 2)
    return Kernel(lambda: kernel, native_extension.device_reasons, reasons, safe=True)


def cuda(module: str, function: str, tensors: int) -> Kernel:
    """Return a Triton host function of a module beside this one as an op's kernel."""
    # Up to the settings, or of a derivative, `parameter_grads`: these kernels keep no hidden activations.
    known = tensors + SETTINGS_END + function.endswith("backward")

    def reasons(*args: Any) -> list[str]:
        return triton_reasons(args[0], *_parameters_and_dtype(args[tensors:]))

    def adapt(found: Callable[..., Any]) -> Callable[..., Any]:
        kernel = unflattened(found, tensors)
        if tensors != 4:
            return lambda *args: kernel(*args[:known])
        return lambda *args: (*kernel(*args[:known]), args[0].new_empty(0))

    return triton_kernel(f"coupling.{module}", function, reasons, adapt)


def _parameters_and_dtype(rest: tuple[Any, ...]) -> tuple[CouplingParameters, torch.dtype | None]:
    return CouplingParameters(*rest[:PARAMETER_COUNT]), rest[SETTINGS_END - 1]


def triton_reasons(x: torch.Tensor, parameters: CouplingParameters, compute_dtype: torch.dtype | None) -> list[str]:
    """Return the reasons for which a call of a coupling op cannot run on Triton kernels; empty if it can.

    Args:
        x: (rows, features), or with seeds in front as everything else then has.
        parameters: the stacked conditioners.
        compute_dtype: of the hidden products.
    """
    reasons = [*tensor_reasons(x), *dtype_reasons(compute_dtype)]
    widths = tuple(parameters.hidden_weight.shape[-2:])
    if max(widths) > MAX_WIDTH:
        reasons.append(f"hidden widths {widths}: the kernels hold up to {MAX_WIDTH}")
    return reasons
