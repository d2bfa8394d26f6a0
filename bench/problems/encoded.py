"""A flow behind the paper's encoder: from observations to densities, as it is trained."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nfkern import CouplingFlow, Encoder
from nfkern.bench.core.cases import FlowCase
from nfkern.bench.problems.calls import Model
from nfkern.bench.problems.eager import EagerFlow
from nfkern.bench.problems.flow_problem import SEED, random_flow

OBSERVATION_SIZE = 58
"""Observation and goal of OGBench's ant mazes, side by side."""


def random_encoder(case: FlowCase) -> Encoder:
    """The paper's encoder, (58) -> (context_features), the same at every call."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        encoder = Encoder(OBSERVATION_SIZE, case.context_features)
    for parameter in encoder.parameters():
        if parameter.ndim == 1:
            # LayerNorms begin as the identity, which would hide errors from the gate.
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return encoder


class EncodedFlow(nn.Module):
    """An nfkern flow whose contexts are its encoder's, with random weights."""

    def __init__(self, case: FlowCase) -> None:
        super().__init__()
        self.encoder, self.model = random_encoder(case), random_flow(case)
        self.event_shape, self.context_features = self.model.event_shape, OBSERVATION_SIZE

    def forward(self, x: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        """(batch, D), (batch, 58) -> nats, (batch,)."""
        log_prob: torch.Tensor = self.model(x, self.encoder(observations))
        return log_prob


class EncodedModel(Model):
    """A flow in PyTorch behind a copy of the encoder."""

    def __init__(self, encoder: Encoder, model: Any) -> None:
        super().__init__()
        self.encoder, self.model = copy.deepcopy(encoder), model

    def log_prob(self, x: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        """(batch, D), (batch, 58) -> nats, (batch,)."""
        log_prob: torch.Tensor = self.model.log_prob(x, self.encoder(observations))
        return log_prob

    def to_latent(self, x: torch.Tensor, observations: torch.Tensor) -> Any:
        """The flow's own, given observations."""
        return self.model.to_latent(x, self.encoder(observations))

    def loss(self, x: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        """The flow's own, given observations."""
        loss: torch.Tensor = self.model.loss(x, self.encoder(observations))
        return loss

    def kink_distance(self, function: Callable[..., Any], *inputs: torch.Tensor) -> torch.Tensor:
        """As `EagerFlow.kink_distance`."""
        distance: torch.Tensor = self.model.kink_distance(function, *inputs)
        return distance

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients of encoder and flow under nfkern's names and in its shapes."""
        return self._joined({name: p.grad for name, p in self.encoder.named_parameters()}, self.model.gradients())

    def named(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As `NaiveFlow.named`."""
        of_encoder, of_model = (
            {name.removeprefix(part): value for name, value in values.items() if name.startswith(part)}
            for part in ("encoder.", "model.")
        )
        return self._joined(of_encoder, self.model.named(of_model))

    def _joined(self, of_encoder: Any, of_model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        parts = (("encoder", of_encoder), ("model", of_model))
        return {f"{part}.{name}": value for part, values in parts for name, value in values.items()}


def behind_encoder(make: Callable[[CouplingFlow], Model]) -> Callable[[EncodedFlow], EncodedModel]:
    """Return what makes a model of an encoded flow, from what makes one of a flow."""
    return lambda encoded: EncodedModel(encoded.encoder, make(encoded.model))


def naive_encoded(encoded: EncodedFlow, dtype: torch.dtype = torch.float32) -> EncodedModel:
    """Return the definition in eager PyTorch."""
    return behind_encoder(EagerFlow.like)(encoded).to(dtype)
