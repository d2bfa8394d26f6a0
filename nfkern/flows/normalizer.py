"""Affine normalisation of observations or actions, with its statistics saved as buffers."""

from typing import Any, Literal, Self

import torch
from torch import nn

from nfkern.arguments import whole
from nfkern.checkpoint import Pretrained

Mode = Literal["standard", "min_max", "none"]


class Normalizer(Pretrained, nn.Module):
    """`(x - center) / scale` per feature; the statistics travel inside every checkpoint.

    Args:
        features: size of the last dimension.
        mode: "standard" (mean 0, standard deviation 1), "min_max" (to [-1, 1]) or "none" (identity).

    Attributes:
        center: (features,), in the data's units.
        scale: (features,), in the data's units; 1 where the data are constant.
    """

    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, features: int, mode: Mode = "standard") -> None:
        super().__init__()
        features = whole("features", features, 1)
        if mode not in ("standard", "min_max", "none"):
            raise ValueError(f"mode: expected 'standard', 'min_max' or 'none', got {mode!r}")
        self.config: dict[str, Any] = {"features": features, "mode": mode}
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    @classmethod
    def fit(cls, data: torch.Tensor, mode: Mode = "standard") -> Self:
        """A normaliser with the statistics of data (rows, features).

        Raises:
            ValueError: no rows, or values that are not finite.
        """
        if data.ndim != 2 or data.shape[0] == 0:
            raise ValueError(f"data: expected shape (rows >= 1, features), got {tuple(data.shape)}")
        if not torch.isfinite(data).all():
            raise ValueError("data: expected finite values, got NaN or infinity")
        data = data.double()
        return cls.from_statistics(mode, data.mean(0), data.std(0, correction=0), data.amin(0), data.amax(0))

    @classmethod
    def from_statistics(
        cls, mode: Mode, mean: torch.Tensor, std: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> Self:
        """A normaliser from known statistics, each (features,)."""
        normalizer = cls(mean.shape[0], mode)
        if mode == "none":
            return normalizer
        center, scale = (mean, std) if mode == "standard" else ((low + high) / 2, (high - low) / 2)
        # Divided by its scale, a feature that hardly varies would be rounding error.
        constant = scale <= 1e-6 * center.abs().clamp(min=1)
        normalizer.center.copy_(center)
        normalizer.scale.copy_(torch.where(constant, torch.ones_like(scale), scale))
        return normalizer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise: (*batch, features) -> (*batch, features)."""
        return (x - self.center) / self.scale

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        """Undo `forward`: back to the data's units."""
        return x * self.scale + self.center
