"""The control loop of a robot without a GPU: an observation in numpy to a denoised action in numpy, one at a time."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nfkern import CouplingFlow, Encoder
from nfkern.bench.core import gate
from nfkern.bench.core.cases import FlowCase
from nfkern.bench.core.declarations import Implementation, Precision, Work
from nfkern.bench.problems.calls import uncompiled
from nfkern.bench.problems.eager import EagerFlow
from nfkern.bench.problems.encoded import OBSERVATION_SIZE, random_encoder
from nfkern.bench.problems.flow_problem import SEED, random_flow

PAUSE_S = 0.02
"""Seconds between the actions of a loop at 50 Hz."""

EVICTED_BYTES = 256 << 20
"""Bytes to write between calls, several times what the caches of most machines hold."""

Act = Callable[[np.ndarray], np.ndarray]


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

    @property
    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Observations and noise of one call's shapes, for compilers."""
        return torch.from_numpy(self.inputs[0][0]), torch.zeros(self.batch, self.flow.features)


class ControlLoop(Work):
    """Observations (batch, 58) in numpy -> denoised actions (batch, features) in numpy, noise drawn on the way."""

    name = "control_loop"
    mode = "inference"
    device = "cpu"

    def prepare(self, case: FlowCase, batch: int, device: torch.device) -> ControlProblem:
        """Random weights and observations, on the CPU, and the right actions."""
        flow, encoder = random_flow(case), random_encoder(case).requires_grad_(False)
        generator = torch.Generator().manual_seed(SEED)
        observations = torch.randn(8, batch, OBSERVATION_SIZE, generator=generator)
        inputs = tuple((each.numpy(),) for each in observations)
        exact, single = (actions(naive_loop(encoder, flow, dtype), inputs) for dtype in (torch.float64, torch.float32))
        return ControlProblem(batch, encoder, flow, inputs, exact, single)

    def check(self, problem: ControlProblem, implementation: Implementation, precision: Precision) -> str | None:
        """The first action that is not the reference's within the derived tolerance."""
        found = actions(implementation.run, problem.inputs)
        terms = problem.flow.features * (problem.flow.blocks + 1)
        return gate.disagreement("action", found, problem.exact, problem.single, gate.EPSILON[precision], terms)


class AfterPause(ControlLoop):
    """The control loop as a robot runs it, with 20 ms of sleep before each observation."""

    name = "control_loop_after_pause"
    job = "control_loop"

    def between_calls(self) -> Callable[[], None]:
        """Sleep: whoever runs meanwhile takes the caches."""
        return lambda: time.sleep(PAUSE_S)


class Evicted(ControlLoop):
    """The control loop beside other work, which leaves nothing of the policy in the caches."""

    name = "control_loop_evicted"
    job = "control_loop"

    def between_calls(self) -> Callable[[], None]:
        """Write more memory than the caches hold."""
        memory = torch.zeros(EVICTED_BYTES // 4)

        def write() -> None:
            memory.add_(1)

        return write


def actions(act: Act, inputs: tuple[tuple[np.ndarray], ...]) -> torch.Tensor:
    """Return its actions for all inputs, each from torch's generator at `SEED`."""
    found = []
    with torch.random.fork_rng(devices=[]):
        for each in inputs:
            torch.manual_seed(SEED)
            found.append(torch.from_numpy(act(*each).copy()))
    return torch.stack(found)


def looped(action: Callable[..., torch.Tensor], draw: Callable[[int], torch.Tensor]) -> Act:
    """From numpy to numpy, by an action of observations and of noise, which is drawn for a number of rows."""

    def act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return action(torch.from_numpy(observations), draw(len(observations))).numpy()

    return act


def naive_loop(encoder: Encoder, flow: CouplingFlow, dtype: torch.dtype = torch.float32) -> Act:
    """The naive flow behind the encoder."""
    layers = copy.deepcopy(encoder).to(dtype)
    denoised = EagerFlow.like(flow, dtype).requires_grad_(False).denoised_action(uncompiled)
    return looped(
        lambda observations, noise: denoised(noise.to(dtype), layers(observations.to(dtype))),
        lambda rows: torch.randn(rows, flow.features),
    )
