"""The paper's context encoder."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from nfkern.arguments import number, whole
from nfkern.checkpoint import Pretrained
from nfkern.flows.int8 import dequantized, quantized


class Encoder(Pretrained, nn.Sequential):
    """`layers` x [Linear(width), LayerNorm, SiLU], then Linear(out_features): (*batch, in) -> (*batch, out).

    Args:
        in_features: size of the input, such as a concatenated [observation, goal].
        out_features: size of the representation that conditions the flow; 64 in most of the paper's runs.
        width: 512 in the paper (1024 for NF-UGS).
        layers: 4 in the paper.
        norm_eps: LayerNorm's epsilon; 1e-5 in the paper's torch code, 1e-6 in its JAX code.

    Raises:
        ValueError: a size below 1, or norm_eps not above 0.
    """

    def __init__(
        self, in_features: int, out_features: int, *, width: int = 512, layers: int = 4, norm_eps: float = 1e-5
    ) -> None:
        sizes = {"in_features": in_features, "out_features": out_features, "width": width, "layers": layers}
        sizes = {name: whole(name, value, 1) for name, value in sizes.items()}
        in_features, out_features, width, layers = sizes.values()
        norm_eps = number("norm_eps", norm_eps, "a number > 0", above=True)
        modules: list[nn.Module] = []
        for layer in range(layers):
            modules += [nn.Linear(width if layer else in_features, width), nn.LayerNorm(width, norm_eps), nn.SiLU()]
        super().__init__(*modules, nn.Linear(width, out_features))
        self.config: dict[str, Any] = {**sizes, "norm_eps": norm_eps}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser: weights of products, with this decay, and all others, with none."""
        decay, weights = number("weight_decay", weight_decay), [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim < 2]
        return [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(*batch, in_features) -> (*batch, out_features).

        Raises:
            ValueError: a wrong feature size.
        """
        if inputs.ndim < 1 or inputs.shape[-1] != self.config["in_features"]:
            raise ValueError(f"inputs: expected shape (..., {self.config['in_features']}), got {tuple(inputs.shape)}")
        outputs: torch.Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs


class LoweredLinear(nn.Module):
    """A Linear with a product in 16 bits, or a weight in int8; bias and result are in the dtype of the inputs."""

    scale: nn.Parameter | None

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        weight, scale = quantized(layer.weight) if dtype == torch.int8 else (layer.weight.to(dtype), None)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_parameter("scale", None if scale is None else nn.Parameter(scale, requires_grad=False))
        self.bias = layer.bias

    def extra_repr(self) -> str:
        """Sizes and dtype."""
        return f"in_features={self.weight.shape[1]}, out_features={self.weight.shape[0]}, dtype={self.weight.dtype}"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(*batch, in) -> (*batch, out)."""
        if self.scale is not None:
            return linear(inputs, dequantized(self.weight, self.scale), self.bias)
        product = linear(inputs.to(self.weight.dtype), self.weight).to(inputs.dtype)
        return product if self.bias is None else product + self.bias


def lower_hidden(encoder: Encoder, dtype: torch.dtype) -> None:
    """Put the weights between hidden layers in `dtype`, in place, for acting; first and last layers stay.

    Layers of other types or with hooks stay: they may use their weight in another way.
    """
    for index in [i for i, layer in enumerate(encoder) if isinstance(layer, nn.Linear)][1:-1]:
        layer = encoder[index]
        if type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks):
            encoder[index] = LoweredLinear(layer, dtype)
