"""Flows in plain PyTorch, whose arithmetic a compiler can see: nfkern's own ops are opaque to it.

The stacked reference, which samples and scores in one sweep, and what exporters take of a model. `forms` says in which
forms they run.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import linear

from nfkern import CouplingFlow
from nfkern.bench.problems.calls import Compiler, Model
from nfkern.bench.problems.flow_problem import SIGMA
from nfkern.kernels import CouplingParameters
from nfkern.kernels.base import reference as base
from nfkern.kernels.coupling import reference as coupling
from nfkern.kernels.coupling.parameters import Settings
from nfkern.kernels.plu import reference as plu


class Forward(nn.Module):
    """A function of a module's as a module of its own, for exporters."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> Any:
        """The function's results."""
        return self.function(x, context)


def behind(encoder: nn.Module, flow: "ReferenceFlow") -> Forward:
    """From observations (batch, 58) and noise (batch, features) to denoised actions."""
    return Forward(nn.ModuleList([encoder, flow]), lambda observations, noise: flow.act(noise, encoder(observations)))


class ReferenceFlow(Model):
    """The stacked reference; mixing matrices are composed once, as nfkern does.

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
        self.flow = copy.deepcopy(flow)
        self.settings = Settings(flow.norm_eps, None, compute_dtype)
        for prefix, inverse in (("", False), ("inverse_", True)):
            matrices, log_det = plu.compose(self.flow.mixing_lu.detach(), flow.permutation, inverse)
            self.register_buffer(f"{prefix}mixing", matrices)
            self.register_buffer(f"{prefix}log_det", log_det)

    def log_prob(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Density, (batch,)."""
        return self._log_prob(x, context, self._matrices("mixing"), self.log_det)

    def _log_prob(self, x: torch.Tensor, context: torch.Tensor, mixing: Any, mixing_log_det: Any) -> torch.Tensor:
        conditioners, settings = self._conditioners(), self.settings
        z, log_det, *_ = coupling.to_latent(x, self._term(context), mixing, mixing_log_det, conditioners, settings)
        log_prob: torch.Tensor = base.standard_normal_log_prob(z) + log_det
        return log_prob

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Data (batch, D) and the log-determinant (batch,)."""
        inverse, conditioners = self._matrices("inverse_mixing"), self._conditioners()
        x, log_det, *_ = coupling.to_data(
            z, self._term(context), inverse, self.inverse_log_det, conditioners, self.settings
        )
        return x, log_det

    def act(self, noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Noise (batch, D), (batch, C) -> denoised action (batch, D); sample and score in one sweep."""
        matrices = (self._matrices("mixing"), self._matrices("inverse_mixing"), self.inverse_log_det)
        x, _, score = coupling.to_data_with_score(
            noise, self._term(context), *matrices, self._conditioners(), self.settings
        )
        return x + SIGMA**2 * score

    def denoised_action(self, compiler: Compiler) -> Callable[..., torch.Tensor]:
        """The function `act`, compiled."""
        return compiler(self.act)

    def loss(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood, (), the composition of the matrices included."""
        composed = plu.compose(self.flow.mixing_lu, self.flow.permutation, False)
        return -self._log_prob(x, context, *composed).mean()

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients of the stacked parameters, by name."""
        return {name: parameter.grad for name, parameter in self.flow.named_parameters() if parameter.grad is not None}

    def _term(self, context: torch.Tensor) -> torch.Tensor:
        flow = self.flow
        assert flow.context_weight is not None
        product = linear(context, flow.context_weight.flatten(0, 2), flow.input_bias.flatten())
        return product.view(len(context), *flow.input_bias.shape)

    def _matrices(self, name: str) -> Any:
        return getattr(self, name)

    def _conditioners(self) -> Any:
        return CouplingParameters(*(getattr(self.flow, name) for name in CouplingParameters._fields))


class SplitReferenceFlow(ReferenceFlow):
    """The same with every block's weights in memory of their own, for compilers that freeze.

    Frozen slices of one tensor make Inductor's C++ templates compute wrong results (torch 2.13).
    """

    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__(flow)
        stacked = {"mixing": self.mixing, "inverse_mixing": self.inverse_mixing}
        for name, blocks in {**stacked, **super()._conditioners().shaped()._asdict()}.items():
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


def exportable(model: Model, work: str, example: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
    """Return a function for compilers that take a whole graph: where autograd has a part, its work is written out."""
    job = work.removeprefix("causal_")
    if job != "denoised_action":
        return {"log_prob": model.log_prob, "inverse": model.to_data}[job]
    if isinstance(model, ReferenceFlow):
        return model.act

    def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = model.to_data(noise, context)[0]
        score: torch.Tensor = torch.func.grad(lambda x: model.log_prob(x, context).sum())(x)
        return x + SIGMA**2 * score

    traced: torch.fx.GraphModule = make_fx(act)(*example)
    return traced
