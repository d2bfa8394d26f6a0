"""Registration of the native CPU kernels, and the reasons why a call runs on the reference instead."""

import functools
from collections.abc import Callable
from typing import Any

from nfkern.kernels.coupling import cpu_kernels
from nfkern.kernels.coupling.parameters import CouplingParameters
from nfkern.kernels.coupling.schema import unflattened
from nfkern.kernels.native_extension import call_reasons, device_reasons, load
from nfkern.kernels.registry import Native, implement, over_seeds


def _coupling(function: Callable[..., Any], tensors: int, derivative: bool = False) -> Native:
    """A kernel with `tensors` arguments before the parameters; the settings follow these."""
    after = tensors + len(CouplingParameters._fields)

    def reasons(*args: Any) -> list[str]:
        parameters, compute_dtype = CouplingParameters(*args[tensors:after]), args[after + 2]
        if derivative:
            return cpu_kernels.backward_reasons(args[0], parameters, compute_dtype, any(args[after + 4 : after + 5]))
        return cpu_kernels.reasons(args[0], parameters, compute_dtype)

    kernel = over_seeds(unflattened(function, tensors), 2)
    return Native(lambda: kernel, device_reasons, reasons)


def _extension(name: str, rank: int | None) -> Native:
    """The extension's function of the op's name; `rank` as in `define`."""

    @functools.cache
    def kernel() -> Callable[..., Any]:
        return over_seeds(getattr(load(), name), rank)

    return Native(kernel, device_reasons, lambda first, *rest: call_reasons(first))


def register() -> None:
    """Give the ops their CPU kernels; called once, when all ops are defined."""
    kernels = {
        "standard_normal_log_prob": _extension("standard_normal_log_prob", None),
        "standard_normal_log_prob_backward": _extension("standard_normal_log_prob_backward", None),
        "linear": _extension("linear", 2),
        "plu_compose": _extension("plu_compose", 3),
        "plu_compose_backward": _extension("plu_compose_backward", 3),
        "coupling_to_latent": _coupling(cpu_kernels.to_latent, 4),
        "coupling_to_data": _coupling(cpu_kernels.to_data, 4),
        "coupling_to_data_with_score": _coupling(cpu_kernels.to_data_with_score, 5),
        "coupling_to_latent_backward": _coupling(cpu_kernels.to_latent_backward, 5, derivative=True),
        "coupling_to_data_backward": _coupling(cpu_kernels.to_data_backward, 5, derivative=True),
    }
    for name, native in kernels.items():
        implement(name, "cpu", native)
