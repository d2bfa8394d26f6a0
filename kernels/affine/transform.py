r"""The element-wise affine map from data to noise: its definition, its inverse and their derivatives.

.. math:: z = (x - \mathrm{shift}) \, e^{-\mathrm{log\_scale}}, \quad
          \log \left| \frac{dz}{dx} \right| = -\mathrm{log\_scale}

for each feature, by two parameters that a conditioner gave for it. With a bound, log_scale is
:math:`\mathrm{bound} \cdot \tanh(\mathrm{raw} / \mathrm{bound})`; the published flows have none. Flows call what is
here and in its twins, `triton_transform.py` and `cpu_transform.h`, and write out no map themselves.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

AffineGrads = tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]
"""Gradients of what was mapped, and of the raw parameters: log_scale, shift."""


class AffineMap(NamedTuple):
    """Maps of features; all tensors have their shape."""

    log_scale: torch.Tensor
    shift: torch.Tensor
    bound: float | None = None

    @classmethod
    def of(cls, parameters: Sequence[torch.Tensor], bound: float | None) -> "AffineMap":
        """Return the maps of a conditioner's raw parameters, log_scale and shift."""
        raw, shift = parameters
        return cls(raw if bound is None else bound * torch.tanh(raw / bound), shift, bound)

    @classmethod
    def from_zero(cls, latent: torch.Tensor, log_det: torch.Tensor) -> "AffineMap":
        """Return the maps that take 0 to `latent` and have these log-determinants."""
        return cls(-log_det, -latent * torch.exp(-log_det))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Data to noise."""
        return (x - self.shift) * torch.exp(-self.log_scale)

    def inverse(self, z: torch.Tensor) -> torch.Tensor:
        """Noise to data."""
        return z * torch.exp(self.log_scale) + self.shift

    def log_det(self) -> torch.Tensor:
        """Log-determinant of `forward` for each feature, in nats; that of `inverse` is its negative."""
        return -self.log_scale

    def forward_vjp(self, x: torch.Tensor, grad: torch.Tensor, grad_log_det: torch.Tensor | float) -> AffineGrads:
        """Gradients through `forward` and `log_det`."""
        # dz/dx = e^-log_scale, dz/dlog_scale = -z, and log_det loses log_scale
        grad_x = grad * torch.exp(-self.log_scale)
        return grad_x, (self._unbounded(-grad_x * (x - self.shift) - grad_log_det), -grad_x)

    def forward_vjp_from_latent(
        self, z: torch.Tensor, grad: torch.Tensor, grad_log_det: torch.Tensor | float
    ) -> AffineGrads:
        """Gradients as `forward_vjp`, where z is known and x is not."""
        grad_x = grad * torch.exp(-self.log_scale)
        return grad_x, (self._unbounded(-grad * z - grad_log_det), -grad_x)

    def inverse_vjp(self, z: torch.Tensor, grad: torch.Tensor, grad_log_det: torch.Tensor | float) -> AffineGrads:
        """Gradients through `inverse`; `grad_log_det` is that of the inverse's log-determinant."""
        # dx/dz = e^log_scale, dx/dlog_scale = z e^log_scale, and the inverse's log_det gains log_scale
        grad_z = grad * torch.exp(self.log_scale)
        return grad_z, (self._unbounded(grad_z * z + grad_log_det), grad)

    def _unbounded(self, grad: torch.Tensor) -> torch.Tensor:
        """Gradient of the raw log_scale, from that of the bounded one."""
        return grad if self.bound is None else grad * (1 - (self.log_scale / self.bound).square())
