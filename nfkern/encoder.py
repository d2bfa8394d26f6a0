"""The paper's context encoder."""

from typing import Any

import torch
from torch import nn

from nfkern.checkpoint import Pretrained


class Encoder(Pretrained, nn.Sequential):
    """`layers` x [Linear(width), LayerNorm, SiLU], then Linear(out_features): (*batch, in) -> (*batch, out).

    Args:
        in_features: size of the input, such as a concatenated [observation, goal].
        out_features: size of the representation that conditions the flow; 64 in most of the paper's runs.
        width: 512 in the paper (1024 for NF-UGS).
        layers: 4 in the paper.

    Raises:
        ValueError: an argument below 1.
    """

    def __init__(self, in_features: int, out_features: int, *, width: int = 512, layers: int = 4) -> None:
        sizes = {"in_features": in_features, "out_features": out_features, "width": width, "layers": layers}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an int >= 1, got {value!r}")
        modules: list[nn.Module] = []
        for layer in range(layers):
            modules += [nn.Linear(width if layer else in_features, width), nn.LayerNorm(width), nn.SiLU()]
        super().__init__(*modules, nn.Linear(width, out_features))
        self.config: dict[str, Any] = sizes

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(*batch, in_features) -> (*batch, out_features).

        Raises:
            ValueError: a wrong feature size.
        """
        if inputs.ndim < 1 or inputs.shape[-1] != self.config["in_features"]:
            raise ValueError(f"inputs: expected shape (..., {self.config['in_features']}), got {tuple(inputs.shape)}")
        outputs: torch.Tensor = super().forward(inputs)  # type: ignore[no-untyped-call]
        return outputs
