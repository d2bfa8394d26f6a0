"""A coupling flow's calls on the CPU that need no derivatives, from arguments to results in one step of C++."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from nfkern.flows.coupling_maps import CouplingMaps
from nfkern.flows.derivatives import readable
from nfkern.flows.encoder import Encoder, LoweredLinear
from nfkern.flows.flow import ActingFlow, Flow, Map
from nfkern.kernels import CouplingParameters
from nfkern.kernels.dispatch.native_extension import device_reasons, load
from nfkern.kernels.dispatch.registry import reference_forced

_GLOBAL_HOOKS: tuple[dict[Any, Any], ...] = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)


_SETTINGS = ("norm_eps", "scale_bound", "inverted", "dtype", "context_features", "permutation", "mixing_lu")
"""Attributes that a call depends on, of those flows that have them."""
_NEVER = object()


class NativeCalls:
    """A coupling flow without bounds in the extension, made at the first call. Copies are empty, also from a pickle.

    It holds the flow's tensors and reads them in every call, so edits in place show. It is made anew after a tensor, a
    layer, a hook or a setting was assigned. Several threads may call at once: none sees a native flow half made.
    """

    def __init__(self) -> None:
        self._native: Any = None
        self.act: Callable[..., np.ndarray | Literal[False] | None] = _nothing
        """Actions without bounds for the flow, observations, sigma, temperature, generator or None, units or None.

        Units are the numbers of `nfkern.acting.units.Units`. None if an argument is not of the simple kind that it
        takes, or not finite; False if the flow has changed.
        """

    def __reduce__(self) -> tuple[Any, ...]:
        return (NativeCalls, ())

    def run(self, flow: Flow, which: Map, events: Any, context: Any) -> tuple[torch.Tensor, ...] | None:
        """Results of a map without derivatives; None if it takes the ordinary way.

        That way is for arguments that are not plain tensors with the same batch shape, for results that are not finite,
        and for callers that watch each operation, as a tracer does.
        """
        if which == "score" or type(events) is not torch.Tensor or not readable(events):
            return None
        if context is not None and type(context) is not torch.Tensor:
            return None
        if torch._C._get_tracing_state():
            return None
        data_map = flow._data_map()
        if data_map is None:
            results = self._call("run", flow, which, events, context)
            return None if results is None else tuple(results)
        if events.dtype != flow._like.dtype or events.shape[-len(flow.event_shape) :] != flow.event_shape:
            return None
        inner, entered = data_map.enter(which, events)
        results = self._call("run", flow, which, inner, context)
        return None if results is None else data_map.leave(which, tuple(results), entered)

    def act_anew(self, flow: Flow, *arguments: Any) -> np.ndarray | None:
        """Actions as of `act`, for a flow that was changed or never called too; None if it takes the ordinary way."""
        actions: np.ndarray | None = self._call("act", flow, *arguments)
        return actions

    def _call(self, name: str, flow: Flow, *arguments: Any) -> Any:
        """Call a method of the native flow; None if this flow or machine has none, or under `use_reference()`.

        Raises:
            ValueError: a weight is not finite.
        """
        native = self._native
        if native is _NEVER or reference_forced():
            return None
        found = False if native is None else getattr(native, name)(flow, *arguments)
        while found is False:
            # If another thread assigns to the flow meanwhile, the next call notices that.
            native = self._native = _make(flow)
            self.act = getattr(native, "act", _nothing)
            if native is None or native is _NEVER:
                return None
            found = getattr(native, name)(flow, *arguments)
        return found


def _nothing(*arguments: Any) -> None:
    """Stands for `act` where there is no native flow."""


def native_reasons(flow: Flow) -> list[str]:
    """Reasons why the extension cannot run a flow's calls as a whole; empty if it can."""
    return _lasting_reasons(flow) or _flow_reasons(flow)


def _make(flow: Flow) -> Any:
    """The native flow; None if the flow has none as it is now, `_NEVER` if it cannot have one."""
    if _lasting_reasons(flow):
        return _NEVER
    if _flow_reasons(flow):
        return None
    # First, so that the next call notices what is assigned from here on.
    source = _source(flow)
    if _flow_reasons(flow):
        return None
    if isinstance(flow, ActingFlow):
        flow.refuse_broken()
    return _gather(flow, *source)


def _source(flow: Any) -> tuple[Any, ...]:
    """All that the native flow depends on, which the extension compares in every call.

    Settings by name; entries of dicts; dicts of tensors and layers with their values; dicts of attributes and hooks
    with their lengths, because a new entry may be a `forward`; modules with their types; tensors that matrices were
    composed from with copies. The flow itself is passed with each call: it holds `NativeCalls`, and a reference back
    would keep both alive for ever.
    """
    encoder = flow._modules.get("encoder")
    modules = [] if encoder is None else [m for m in (encoder, *encoder._modules.values()) if m is not None]
    watched: list[dict[Any, Any]] = [flow._parameters, flow._buffers, flow._modules, *(m._modules for m in modules[:1])]
    watched += [module._parameters for module in modules if module._parameters]
    counted: list[dict[Any, Any]] = [*_GLOBAL_HOOKS]
    for module in modules:
        counted += [module.__dict__, module._forward_hooks, module._forward_pre_hooks]
    return (
        {name: flow.__dict__[name] for name in _SETTINGS if name in flow.__dict__},
        [(module.__dict__, "eps", module.__dict__["eps"]) for module in modules if "eps" in module.__dict__],
        [(each, tuple(each.values())) for each in watched],
        [(each, len(each)) for each in counted],
        [(module, type(module)) for module in modules],
        [(tensor, tensor.detach().clone()) for tensor in flow._composed_from],
    )


def _lasting_reasons(flow: Flow) -> list[str]:
    """Reasons that last until the flow is moved, which makes a new `NativeCalls`."""
    if not isinstance(flow, CouplingMaps):
        return [f"{type(flow).__name__}: it takes coupling flows"]
    device = flow._like.device
    if device.type != "cpu":
        return [f"on {device}: it runs on the CPU"]
    reasons, dtype = list(device_reasons(device)), _hidden_dtype(flow)
    if flow._like.dtype != torch.float32 or dtype not in (torch.float32, torch.bfloat16, torch.int8):
        reasons.append(f"dtype {dtype}: it takes float32, bfloat16 and int8")
    return reasons


def _hidden_dtype(flow: Flow) -> torch.dtype:
    """Dtype of a flow's hidden weights, unless someone assigned others."""
    return flow.dtype if isinstance(flow, ActingFlow) else flow._like.dtype


def _flow_reasons(flow: Any) -> list[str]:
    if flow.inverted:
        return ["inverted=True"]
    if flow.features == 1:
        return ["features=1"]
    reasons, held = [], flow._parameters | flow._buffers
    for name in ("input_bias", *CouplingParameters._fields, *(["context_weight"] if flow.context_features else [])):
        if name not in held:
            # Computed in each call, as by `torch.nn.utils.parametrize`.
            return [f"{name}: neither a parameter nor a buffer"]
    for name, tensor in held.items():
        if tensor is None and not name.startswith("norm") and (flow.context_features or name != "context_weight"):
            reasons.append(f"{name}: None")
        if not _plain(tensor):
            reasons.append(f"{name}: no plain tensor")
    reasons += ["mixing: not contiguous" for tensor in flow._composed_from if not tensor.is_contiguous()]
    hidden, dtype = held["hidden_weight"], _hidden_dtype(flow)
    if hidden is not None and hidden.dtype != dtype:
        reasons.append(f"hidden_weight in {hidden.dtype}, the flow has {dtype}")
    return reasons or _encoder_reasons(flow._modules.get("encoder"), flow.context_features)


def _encoder_reasons(encoder: nn.Module | None, context_features: int) -> list[str]:
    """Reasons why the extension cannot take an encoder: types, hooks, tensors and sizes of its layers."""
    if encoder is None:
        return []
    if type(encoder) is not Encoder:
        return [f"encoder {type(encoder).__name__}: it takes nfkern.Encoder"]
    layers: list[Any] = list(encoder._modules.values())
    width = encoder.config["in_features"]
    kinds = (nn.Linear, nn.LayerNorm, nn.SiLU)
    if len(layers) % 3 != 1:
        return [f"encoder of {len(layers)} layers: it takes those of nfkern.Encoder"]
    if any(_GLOBAL_HOOKS) or _hooked(encoder):
        return ["encoder with hooks or a forward of its own"]
    for index, layer in enumerate(layers):
        if reason := _layer_reason(layer, kinds[index % 3], width):
            return [f"encoder.{index}: {reason}"]
        if index % 3 == 0:
            width = layer.weight.shape[0]
    return [] if width == context_features else [f"encoder: {width} features, the flow takes {context_features}"]


def _layer_reason(layer: Any, kind: type[nn.Module], width: int) -> str | None:
    """Difference of a layer that takes `width` features from the same layer of an `Encoder`, or None."""
    found: type = type(layer)
    if found is not kind and not (kind is nn.Linear and found is LoweredLinear):
        return f"{found.__name__} in the place of {kind.__name__}"
    if _hooked(layer):
        return "hooks or a forward of its own"
    if kind is nn.SiLU:
        return None
    if layer.weight is None or layer.bias is None or not _plain(layer.weight) or not _plain(layer.bias):
        return "weight and bias are not two plain tensors"
    sizes, biases = tuple(layer.weight.shape), tuple(layer.bias.shape)
    if kind is nn.LayerNorm:
        fits = sizes == biases == tuple(layer.normalized_shape) == (width,) and layer.eps > 0
    else:
        fits = len(sizes) == 2 and sizes[0] > 0 and sizes[1] == width and biases == sizes[:1]
    if not fits:
        return f"weight of shape {sizes} and bias of {biases} for {width} features"
    lowered = found is LoweredLinear
    if lowered and not _plain(layer.scale):
        return "scale is no plain tensor"
    wanted = torch.float32 if not lowered else torch.bfloat16 if layer.scale is None else torch.int8
    if layer.weight.dtype != wanted or layer.bias.dtype != torch.float32:
        return f"weight in {layer.weight.dtype}, bias in {layer.bias.dtype}"
    return None


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _plain(tensor: torch.Tensor | None) -> bool:
    """Whether it is None, or a tensor or parameter without a subclass or a transform around it."""
    if tensor is None:
        return True
    return type(tensor) in (torch.Tensor, nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


@torch.no_grad()
def _gather(flow: Flow, *source: Any) -> Any:
    assert isinstance(flow, CouplingMaps)
    encoder = flow._modules.get("encoder")
    return load().NativeFlow(
        *source,
        [getattr(flow, name) for name in CouplingParameters._fields],
        flow._buffers.get("hidden_scale"),
        flow.context_weight,
        flow._buffers.get("context_scale"),
        flow.input_bias,
        *flow._compose(False),
        *flow._compose(True),
        flow.norm_eps,
        flow.scale_bound,
        [] if encoder is None else list(_encoder_layers(encoder)),
    )


def _encoder_layers(encoder: Any) -> Iterator[tuple[Any, ...]]:
    """Each layer's name, weight, scale, bias and LayerNorm; the last has no norm."""
    *hidden, last = encoder
    for index, (linear, norm) in enumerate(zip(hidden[::3], hidden[1::3], strict=True)):
        scale = linear._parameters.get("scale")
        yield f"encoder.{3 * index}", linear.weight, scale, linear.bias, norm.weight, norm.bias, norm.eps
    yield f"encoder.{len(hidden)}", last.weight, last._parameters.get("scale"), last.bias, None, None, 0.0
