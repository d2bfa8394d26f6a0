"""A flow with random weights and inputs: what every work on flows is given.

Weights are random everywhere, the output layers' too: at initialisation a coupling flow is linear, and zeros would hide
errors from the gate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from nfkern import CausalFlow, CouplingFlow
from nfkern.bench.core.cases import CausalCase, FlowCase
from nfkern.flows.flow import Flow
from nfkern.numerics import perturb

SIGMA = 0.1
"""Standard deviation of the paper's training noise, which denoising removes."""

SEED = 0

Results = dict[str, torch.Tensor]

CaseType = TypeVar("CaseType")
FlowType = TypeVar("FlowType", bound=Flow)


@dataclass(frozen=True)
class Problem(Generic[CaseType, FlowType]):
    """A flow with random weights, sets of random inputs, and the right results.

    Attributes:
        flow: float32; builders copy it, never change it.
        inputs: pairs (batch, *event_shape), (batch, context_features).
        exact: the reference's results in float64.
        single: the same in float32.
    """

    case: CaseType
    batch: int
    flow: FlowType
    inputs: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    exact: Results
    single: Results

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.flow.parameters())


FlowProblem = Problem[FlowCase, CouplingFlow]
CausalProblem = Problem[CausalCase, CausalFlow]


def random_flow(case: FlowCase) -> CouplingFlow:
    """A flow of this shape, the same at every call, in which every parameter does something."""
    return _random(CouplingFlow, case)


def random_causal_flow(case: CausalCase) -> CausalFlow:
    """As `random_flow`."""
    return _random(CausalFlow, case)


def _random(make: Callable[..., FlowType], case: FlowCase | CausalCase) -> FlowType:
    sizes = {name: value for name, value in vars(case).items() if name != "name"}
    # The constructor draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        flow = make(**sizes)
    return perturb(flow, torch.Generator().manual_seed(SEED))
