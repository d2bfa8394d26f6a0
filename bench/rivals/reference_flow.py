"""The stacked reference in plain PyTorch, whose arithmetic a compiler can see: the flow's own ops are opaque to it."""

import copy
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear

from nfkern import CouplingFlow
from nfkern.bench.problems.flow_problem import SIGMA
from nfkern.kernels import CouplingParameters
from nfkern.kernels.base import reference as base
from nfkern.kernels.coupling import reference as coupling
from nfkern.kernels.coupling.parameters import Settings
from nfkern.kernels.plu import reference as plu

INFERENCE_WORKS = ("log_prob", "inverse", "denoised_action")


class ReferenceFlow(nn.Module):
    """Each of `INFERENCE_WORKS` as a method; mixing matrices are composed once, as nfkern does.

    A module, so that exporters, and compilers that freeze, find its weights.

    Args:
        flow: copied.
        compute_dtype: of the hidden products, float32 if None.
    """

    mixing: torch.Tensor
    log_det: torch.Tensor
    inverse_mixing: torch.Tensor
    inverse_log_det: torch.Tensor

    def __init__(self, flow: CouplingFlow, compute_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.flow = copy.deepcopy(flow).requires_grad_(False)
        self.compute_dtype = compute_dtype
        for prefix, inverse in (("", False), ("inverse_", True)):
            matrices, log_det = plu.compose(self.flow.mixing_lu, flow.permutation, inverse)
            self.register_buffer(f"{prefix}mixing", matrices)
            self.register_buffer(f"{prefix}log_det", log_det)

    def log_prob(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(batch, D), (batch, C) -> (batch,)."""
        term = _context_term(self.flow, context)
        z, log_det, *_ = coupling.to_latent(x, term, self._matrices("mixing"), self.log_det, *self._settings())
        log_prob: torch.Tensor = base.standard_normal_log_prob(z) + log_det
        return log_prob

    def inverse(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise (batch, D), (batch, C) -> data (batch, D) and the log-determinant (batch,)."""
        term, inverse = _context_term(self.flow, context), self._matrices("inverse_mixing")
        x, log_det, *_ = coupling.to_data(z, term, inverse, self.inverse_log_det, *self._settings())
        return x, log_det

    def denoised_action(self, noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Noise (batch, D), (batch, C) -> denoised action (batch, D); sample and score in one sweep."""
        term = _context_term(self.flow, context)
        matrices = (self._matrices("mixing"), self._matrices("inverse_mixing"), self.inverse_log_det)
        x, _, score = coupling.to_data_with_score(noise, term, *matrices, *self._settings())
        return x + SIGMA**2 * score

    def _matrices(self, name: str) -> Any:
        return getattr(self, name)

    def _conditioners(self) -> Any:
        return _conditioners(self.flow)

    def _settings(self) -> tuple[Any, ...]:
        return self._conditioners(), Settings(self.flow.norm_eps, None, self.compute_dtype)


class SplitReferenceFlow(ReferenceFlow):
    """The same with every block's weights in memory of their own, for compilers that freeze.

    Frozen slices of one tensor make Inductor's C++ templates compute wrong results (torch 2.13).
    """

    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__(flow)
        stacked = {"mixing": self.mixing, "inverse_mixing": self.inverse_mixing}
        for name, blocks in {**stacked, **_conditioners(self.flow).shaped()._asdict()}.items():
            for k, weight in enumerate(blocks):
                self.register_buffer(f"{name}_{k}", weight.detach().clone())

    def _matrices(self, name: str) -> Any:
        return [getattr(self, f"{name}_{k}") for k in range(self.flow.blocks)]

    def _conditioners(self) -> Any:
        fields = (self._matrices(name) for name in CouplingParameters._fields)
        return _Blocks([CouplingParameters(*block) for block in zip(*fields, strict=True)])


class _Blocks(NamedTuple):
    """The fields of `CouplingParameters` that the reference reads."""

    each: list[CouplingParameters]

    def blocks(self) -> list[CouplingParameters]:
        """As `CouplingParameters.blocks`."""
        return self.each


def training_loss(
    flow: CouplingFlow, x: torch.Tensor, context: torch.Tensor, compute_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Negative log-likelihood, (), the composition of the matrices included."""
    composed = plu.compose(flow.mixing_lu, flow.permutation, False)
    settings = Settings(flow.norm_eps, None, compute_dtype)
    z, log_det, *_ = coupling.to_latent(x, _context_term(flow, context), *composed, _conditioners(flow), settings)
    return -(base.standard_normal_log_prob(z) + log_det).mean()


def _context_term(flow: CouplingFlow, context: torch.Tensor) -> torch.Tensor:
    assert flow.context_weight is not None
    product = linear(context, flow.context_weight.flatten(0, 2), flow.input_bias.flatten())
    return product.view(len(context), *flow.input_bias.shape)


def _conditioners(flow: CouplingFlow) -> CouplingParameters:
    return CouplingParameters(*(getattr(flow, name) for name in CouplingParameters._fields))
