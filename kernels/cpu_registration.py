"""Registration of the native CPU kernels, and the reasons why a call runs on the reference instead."""

import functools
from collections.abc import Callable
from typing import Any

from nfkern.kernels.causal import cpu_kernels as causal_kernels
from nfkern.kernels.causal.parameters import CausalParameters
from nfkern.kernels.causal.reference import Settings
from nfkern.kernels.causal.schema import unflattened as causal_unflattened
from nfkern.kernels.coupling import cpu_kernels
from nfkern.kernels.coupling.parameters import CouplingParameters
from nfkern.kernels.coupling.schema import unflattened
from nfkern.kernels.native_extension import call_reasons, device_reasons, load
from nfkern.kernels.registry import Native, implement
from nfkern.kernels.seeds import over_seeds


def _coupling(function: Callable[..., Any], tensors: int) -> Native:
    """A kernel with `tensors` arguments before the parameters; the settings follow these."""
    after = tensors + len(CouplingParameters._fields)

    def reasons(*args: Any) -> list[str]:
        return cpu_kernels.reasons(args[0], CouplingParameters(*args[tensors:after]), args[after + 2])

    kernel = over_seeds(unflattened(function, tensors), 2)
    return Native(lambda: kernel, device_reasons, reasons, safe=True)


def _causal(function: Callable[..., Any], reasons: Callable[..., list[str]]) -> Native:
    """A kernel that takes an event, the context term, parameters and settings; `reasons` takes all but the tensors."""
    after = 2 + len(CausalParameters._fields)

    def call_reasons(*args: Any) -> list[str]:
        settings = args[after : after + len(Settings._fields)]
        return reasons(args[0], Settings(*settings), *args[after + len(settings) :])

    kernel = over_seeds(causal_unflattened(function, 2), 3)
    return Native(lambda: kernel, device_reasons, call_reasons, safe=True)


def _extension(name: str, rank: int | None) -> Native:
    """The extension's function of the op's name; `rank` as in `define`."""

    @functools.cache
    def kernel() -> Callable[..., Any]:
        return over_seeds(getattr(load(), name), rank)

    return Native(kernel, device_reasons, lambda first, *rest: call_reasons(first), safe=True)


def register() -> None:
    """Give the ops their CPU kernels; called once, when all ops are defined."""
    kernels = {
        "standard_normal_log_prob": _extension("standard_normal_log_prob", None),
        "standard_normal_log_prob_backward": _extension("standard_normal_log_prob_backward", None),
        "linear": _extension("linear", 2),
        "causal_affine": _extension("causal_affine", 3),
        "causal_affine_backward": _extension("causal_affine_backward", 3),
        "plu_compose": _extension("plu_compose", 3),
        "plu_compose_backward": _extension("plu_compose_backward", 3),
        "coupling_to_latent": _coupling(cpu_kernels.to_latent, 4),
        "coupling_to_data": _coupling(cpu_kernels.to_data, 4),
        "coupling_to_data_with_score": _coupling(cpu_kernels.to_data_with_score, 5),
        "coupling_to_latent_backward": _coupling(cpu_kernels.to_latent_backward, 5),
        "coupling_to_data_backward": _coupling(cpu_kernels.to_data_backward, 5),
    }
    kernels |= {
        "causal_flow_to_latent": _causal(causal_kernels.to_latent, causal_kernels.reasons),
        "causal_flow_to_data": _causal(causal_kernels.to_data, causal_kernels.sampling_reasons),
        "causal_flow_to_data_with_score": _causal(causal_kernels.to_data_with_score, causal_kernels.reasons),
    }
    for name, native in kernels.items():
        implement(name, "cpu", native)
