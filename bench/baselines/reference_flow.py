"""The stacked reference in plain PyTorch, whose arithmetic a compiler can see: the flow's own ops are opaque to it."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from nfkern import CouplingFlow
from nfkern.bench.flow_problem import SIGMA
from nfkern.kernels import CouplingParameters
from nfkern.kernels.base import reference as base
from nfkern.kernels.coupling import reference as coupling
from nfkern.kernels.plu import reference as plu

INFERENCE_WORKS = ("log_prob", "inverse", "denoised_action")


class ReferenceFlow(nn.Module):
    """Each of `INFERENCE_WORKS` as a method; mixing matrices are composed once, as nfkern does.

    A module, so that exporters, and compilers that freeze, find its weights.

    Args:
        flow: copied.
        compute_dtype: of the hidden products, float32 if None.
    """

    log_det: torch.Tensor
    inverse_log_det: torch.Tensor

    def __init__(self, flow: CouplingFlow, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.flow = copy.deepcopy(flow).requires_grad_(False)
        self.compute_dtype = compute_dtype
        for prefix, inverse in (("", False), ("inverse_", True)):
            matrices, log_det = plu.compose(self.flow.mixing_lu, flow.permutation, inverse)
            self.register_buffer(f"{prefix}log_det", log_det)
            # Each in memory of its own: frozen slices of one tensor make Inductor's C++ templates compute wrong results
            # (torch 2.13).
            for k, matrix in enumerate(matrices):
                self.register_buffer(f"{prefix}mixing_{k}", matrix.clone())

    def log_prob(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(batch, D), (batch, C) -> (batch,)."""
        return log_prob(self.flow, self._matrices(""), self.log_det, x, context, self.compute_dtype)

    def inverse(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise (batch, D), (batch, C) -> data (batch, D) and the log-determinant (batch,)."""
        x, log_det, *_ = coupling.to_data(
            z,
            _context_term(self.flow, context),
            self._matrices("inverse_"),
            self.inverse_log_det,
            _conditioners(self.flow),
            self.flow.norm_eps,
            None,
            self.compute_dtype,
        )
        return x, log_det

    def denoised_action(self, noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Noise (batch, D), (batch, C) -> denoised action (batch, D); sample and score in one sweep."""
        x, _, score = coupling.to_data_with_score(
            noise,
            _context_term(self.flow, context),
            self._matrices(""),
            self._matrices("inverse_"),
            self.inverse_log_det,
            _conditioners(self.flow),
            self.flow.norm_eps,
            None,
            self.compute_dtype,
        )
        return x + SIGMA**2 * score

    def _matrices(self, prefix: str) -> Any:
        """Each block's; the reference only indexes them."""
        return [getattr(self, f"{prefix}mixing_{k}") for k in range(self.flow.blocks)]


def training_loss(
    flow: CouplingFlow, x: torch.Tensor, context: torch.Tensor, compute_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Negative log-likelihood, the composition of the matrices included."""
    matrices, log_det = plu.compose(flow.mixing_lu, flow.permutation, False)
    return -log_prob(flow, matrices, log_det, x, context, compute_dtype).mean()


def log_prob(
    flow: CouplingFlow,
    matrices: Any,
    log_det: torch.Tensor,
    x: torch.Tensor,
    context: torch.Tensor,
    compute_dtype: torch.dtype | None,
) -> torch.Tensor:
    """(batch, D), (batch, C) -> (batch,), with each block's matrix and their log-determinant."""
    z, log_det, *_ = coupling.to_latent(
        x, _context_term(flow, context), matrices, log_det, _conditioners(flow), flow.norm_eps, None, compute_dtype
    )
    density: torch.Tensor = base.standard_normal_log_prob(z) + log_det
    return density


def _context_term(flow: CouplingFlow, context: torch.Tensor) -> torch.Tensor:
    assert flow.context_weight is not None
    product = linear(context, flow.context_weight.flatten(0, 2), flow.input_bias.flatten())
    return product.view(len(context), *flow.input_bias.shape)


def _conditioners(flow: CouplingFlow) -> CouplingParameters:
    return CouplingParameters(*(getattr(flow, name) for name in CouplingParameters._fields))
