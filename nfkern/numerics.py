"""Rounding errors of flows against float64: the table that `nfkern doctor --numerics` prints."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from nfkern.flows.causal import CausalFlow
from nfkern.flows.coupling import CouplingFlow
from nfkern.flows.flow import Flow

SHAPES: dict[str, Callable[[], CouplingFlow | CausalFlow]] = {
    "D 5, context 64, hidden 256 x 256, 6 blocks": partial(CouplingFlow, 5, 64),
    "D 42, context 256, hidden 512 x 512, 12 blocks": partial(CouplingFlow, 42, 256, hidden=(512, 512), blocks=12),
    "causal, T 16, D 7, context 256, width 256, 4 blocks": partial(CausalFlow, 16, 7, 256),
}
"""The paper's flow for one action and for chunks of actions, and the causal flow for chunks."""

PRECISIONS: dict[str, torch.dtype | None] = {
    "training float32": None,
    "frozen float32": torch.float32,
    "frozen float16": torch.float16,
    "frozen bfloat16": torch.bfloat16,
    "frozen int8": torch.int8,
}
"""The causal flow is not frozen in int8."""


FlowType = TypeVar("FlowType", bound=Flow)


@dataclass(frozen=True)
class Errors:
    """Largest errors over rows, tokens and features against float64.

    Attributes:
        x: of samples, relative to the largest entry.
        log_prob: of log p, in nats.
        score: of grad log p, relative to the largest entry; in some rows rounding changes the sign of a LeakyReLU's
            input, where the score jumps.
    """

    x: float
    log_prob: float
    score: float


@torch.no_grad()
def perturb(flow: FlowType, generator: torch.Generator) -> FlowType:
    """Make every parameter of a new flow matter, in place, with log_scales of about 0.3; return the flow."""
    weight = flow.get_parameter("output_weight")
    # The last layer's inputs are of order one: 0.3 / sqrt(width) keeps log_scale near 0.3.
    weight.normal_(0, 0.3 / math.sqrt(weight.shape[-1]), generator=generator)
    for name, parameter in flow.named_parameters():
        if "norm" in name or name in ("output_bias", "position"):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return flow


@torch.no_grad()
def errors(flow: CouplingFlow | CausalFlow, rows: int = 256, seed: int = 0) -> dict[str, Errors]:
    """Errors of a float32 flow and of its frozen copies on random contexts and noise, by precision.

    Args:
        flow: a float32 flow; left as it is.
        rows: number of samples.
        seed: of contexts and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, *flow.event_shape, generator=generator)
    context = torch.randn(rows, flow.context_features, generator=generator) if flow.context_features else None
    exact = copy.deepcopy(flow).double().eval()
    # Samples are rounded first, so that all densities are evaluated at the same points.
    x = exact.to_data(noise.double(), _double(context))[0].float()
    wanted = _results(exact, x.double(), noise.double(), _double(context))
    found = {}
    for name, dtype in PRECISIONS.items():
        if dtype == torch.int8 and not isinstance(flow, CouplingFlow):
            continue
        rounded: Flow = copy.deepcopy(flow).eval() if dtype is None else flow.freeze(dtype)
        results = _results(rounded, x, noise, context)
        off_x, off_log_prob, off_score = (float((r - w).abs().max()) for r, w in zip(results, wanted, strict=True))
        scale_x, _, scale_score = (float(w.abs().max()) for w in wanted)
        found[name] = Errors(off_x / scale_x, off_log_prob, off_score / scale_score)
    return found


def table(rows: int = 256) -> list[str]:
    """Lines of the error table for random flows of the paper's shapes."""
    lines = []
    for title, make in SHAPES.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            flow = perturb(make(), torch.Generator().manual_seed(0))
        lines.append(f"{title}, {rows} rows, largest errors against float64")
        lines.append(f"  {'':<16} {'x, relative':>12} {'log p, nats':>12} {'score, rel.':>12}")
        for name, found in errors(flow, rows).items():
            lines.append(f"  {name:<16} {found.x:>12.1e} {found.log_prob:>12.1e} {found.score:>12.1e}")
    return lines


def _results(
    flow: Flow, x: torch.Tensor, noise: torch.Tensor, context: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return flow.to_data(noise, context)[0], flow.log_prob(x, context), flow.score(x, context)


def _double(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.double()
