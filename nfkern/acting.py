"""A frozen flow's calls on the CPU, from observations to results in one step of C++."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nfkern.coupling_maps import CouplingMaps
from nfkern.encoder import Encoder
from nfkern.kernels.native_extension import device_reasons, load
from nfkern.kernels.registry import reference_forced
from nfkern.transforms import readable

if TYPE_CHECKING:
    from nfkern.frozen_base import Frozen

_MAPS = {
    "_rows_log_prob": "log_prob",
    "_rows_to_latent": "to_latent",
    "_rows_to_data": "to_data",
    "_map_to_data_with_score": "to_data_with_score",
}


class NativeCalls:
    """A frozen flow in the extension, made at the first call. A copy, or what comes back from a pickle, is empty.

    It holds the flow's tensors and reads them anew in every call, so edits in place show.
    """

    def __init__(self) -> None:
        self._flow: Any = None
        self._reasons: tuple[str, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (NativeCalls, ())

    def of(self, flow: "Frozen") -> Any:
        """The native flow, or None where this flow or machine has none, or `use_reference()` is in force."""
        if self._reasons is None:
            self._reasons = tuple(native_reasons(flow))
            if not self._reasons:
                self._flow = _gather(flow)
        return None if reference_forced() else self._flow

    def run(self, flow: "Frozen", rows_map: str, events: Any, context: Any) -> tuple[torch.Tensor, ...] | None:
        """Results of a map of rows, if its arguments are plain tensors with the same batch shape; else None."""
        name = _MAPS.get(rows_map)
        if name is None or type(events) is not torch.Tensor or not readable(events):
            return None
        if context is not None and type(context) is not torch.Tensor:
            return None
        native = self.of(flow)
        results = None if native is None else native.run(name, events, context)
        return None if results is None else tuple(results)

    def act(
        self,
        flow: "Frozen",
        observations: np.ndarray,
        sigma: float,
        temperature: float,
        generator: torch.Generator | None,
    ) -> np.ndarray | None:
        """Actions for observations, or None where there is no native flow."""
        native = self.of(flow)
        if native is None:
            return None
        actions: np.ndarray = native.act(observations, sigma, temperature, generator)
        return actions


def native_reasons(flow: "Frozen") -> list[str]:
    """Why the extension cannot run a frozen flow's calls as a whole; empty if it can."""
    if not isinstance(flow, CouplingMaps):
        return [f"{type(flow).__name__}: it takes coupling flows"]
    device = flow._like.device
    if device.type != "cpu":
        return [f"on {device}: it runs on the CPU"]
    reasons = list(device_reasons(device))
    if flow._like.dtype != torch.float32 or flow.dtype not in (torch.float32, torch.bfloat16):
        reasons.append(f"dtype {flow.dtype}: it takes float32 and bfloat16")
    if flow.inverted:
        reasons.append("inverted=True")
    if flow.bounds is not None:
        reasons.append(f"bounds={flow.bounds!r}")
    if flow.encoder is not None and type(flow.encoder) is not Encoder:
        reasons.append(f"encoder {type(flow.encoder).__name__}: it takes nfkern.Encoder")
    return reasons


def _gather(flow: "Frozen") -> Any:
    assert isinstance(flow, CouplingMaps)
    layers = [] if flow.encoder is None else _encoder_layers(flow.encoder)
    return load().ActingFlow(
        list(flow._parameters_tuple),
        flow.context_weight,
        flow.input_bias,
        flow.mixing,
        flow.mixing_log_det,
        flow.inverse_mixing,
        flow.inverse_log_det,
        flow.norm_eps,
        flow.scale_bound,
        layers,
    )


def _encoder_layers(encoder: Any) -> list[tuple[Any, ...]]:
    """Each layer's Linear and LayerNorm; the last has only the former."""
    *hidden, last = encoder
    layers: list[tuple[Any, ...]] = []
    for linear, norm in zip(hidden[::3], hidden[1::3], strict=True):
        layers.append(
            (linear.weight.detach(), linear.bias.detach(), norm.weight.detach(), norm.bias.detach(), norm.eps)
        )
    return [*layers, (last.weight.detach(), last.bias.detach(), None, None, 0.0)]
