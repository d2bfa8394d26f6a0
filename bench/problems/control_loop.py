"""The control loop of a robot without a GPU: an observation in numpy to a denoised action in numpy, one at a time."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from nfkern import CouplingFlow, Encoder
from nfkern.bench.core import gate
from nfkern.bench.core.cases import FlowCase
from nfkern.bench.core.declarations import Builder, Implementation, Mode, Precision
from nfkern.bench.problems import eager
from nfkern.bench.problems.flow_problem import SEED, SIGMA, random_flow

OBSERVATION_SIZE = 58
"""Observation and goal of OGBench's ant mazes, side by side."""


@dataclass(frozen=True)
class ControlProblem:
    """An encoder and a flow with random weights, and observations.

    Attributes:
        encoder: the paper's, (58) -> (context_features).
        flow: `nfkern.CouplingFlow`.
        inputs: observations (batch, 58), float32.
        exact: actions for them in float64, each with noise drawn from torch's generator at `SEED`.
        single: the same in float32.
    """

    batch: int
    encoder: Encoder
    flow: CouplingFlow
    inputs: tuple[tuple[np.ndarray], ...]
    exact: torch.Tensor
    single: torch.Tensor

    @property
    def parameters(self) -> int:
        """Number of trained parameters, the encoder's included."""
        return sum(p.numel() for module in (self.encoder, self.flow) for p in module.parameters())


class ControlLoop:
    """Observations (batch, 58) in numpy -> denoised actions (batch, features) in numpy, noise drawn on the way."""

    name = "control_loop"
    mode: Mode = "inference"
    device = "cpu"

    def context(self) -> AbstractContextManager[None]:
        """Each variant sees to autograd itself, as a user's code would."""
        return nullcontext()

    def prepare(self, case: FlowCase, batch: int, device: torch.device) -> ControlProblem:
        """Random weights and observations, on the CPU, and the right actions."""
        flow, generator = random_flow(case), torch.Generator().manual_seed(SEED)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            encoder = Encoder(OBSERVATION_SIZE, case.context_features)
        encoder.requires_grad_(False)
        for parameter in encoder.parameters():
            if parameter.ndim == 1:
                # LayerNorms begin as the identity, which would hide errors from the gate.
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        observations = torch.randn(8, batch, OBSERVATION_SIZE, generator=generator)
        inputs = tuple((each.numpy(),) for each in observations)
        right = {
            dtype: actions(eager_actions(encoder, flow, dtype), inputs) for dtype in (torch.float64, torch.float32)
        }
        return ControlProblem(batch, encoder, flow, inputs, right[torch.float64], right[torch.float32])

    def check(self, problem: ControlProblem, implementation: Implementation, precision: Precision) -> str | None:
        """The first action that is not the reference's within the derived tolerance."""
        found = actions(implementation, problem.inputs)
        terms = problem.flow.features * (problem.flow.blocks + 1)
        return gate.disagreement("action", found, problem.exact, problem.single, gate.EPSILON[precision], terms)


def actions(implementation: Implementation, inputs: tuple[tuple[np.ndarray], ...]) -> torch.Tensor:
    """Return its actions for all inputs, each from torch's generator at `SEED`."""
    found = []
    with torch.random.fork_rng(devices=[]):
        for each in inputs:
            torch.manual_seed(SEED)
            found.append(torch.from_numpy(implementation.run(*each).copy()))
    return torch.stack(found)


def eager_actions(encoder: Encoder, flow: CouplingFlow, dtype: torch.dtype) -> Implementation:
    """The naive flow behind the encoder."""
    layers = Encoder(**encoder.config).to(dtype)
    layers.load_state_dict(encoder.state_dict())
    layers.requires_grad_(False)
    denoised = eager.denoised(eager.EagerFlow.like(flow, dtype))

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            noise = torch.randn(len(observations), flow.features).to(dtype)
            return denoised(noise, layers(torch.from_numpy(observations).to(dtype))).numpy()

    return Implementation(act)


def _eager(problem: ControlProblem) -> Implementation:
    return eager_actions(problem.encoder, problem.flow, torch.float32)


def _nfkern(problem: ControlProblem) -> Implementation:
    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            context = problem.encoder(torch.from_numpy(observations))
            return problem.flow.sample_denoised(SIGMA, (), context).numpy()

    return Implementation(act)


def _frozen(dtype: torch.dtype) -> Builder:
    def build(problem: ControlProblem) -> Implementation:
        policy = problem.flow.freeze(dtype, problem.encoder)
        return Implementation(lambda observations: policy.act(observations, SIGMA))

    return build


BUILDERS: Mapping[str, Builder] = {
    "eager": _eager,
    "nfkern": _nfkern,
    "nfkern_frozen": _frozen(torch.float32),
    "nfkern_frozen_bf16": _frozen(torch.bfloat16),
}
"""By variant."""
