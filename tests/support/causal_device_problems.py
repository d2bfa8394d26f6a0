"""Random calls of the causal flow's ops, with the right results in float64."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from nfkern.bench.core.cases import CausalCase
from nfkern.bench.kernels.calls import COMPUTE_DTYPES, Arithmetic, Map, dispatched, matmul_precision
from nfkern.bench.problems.causal_problem import random_causal_flow
from nfkern.kernels import CausalParameters
from support.device_problems import Results

GUIDANCE = 0.5
CALM = 0.25
"""Of the last layers' weights: every token scales those after it, and guidance the more so, up to infinity."""


class CausalMaps(NamedTuple):
    """The ops, each called as its namesake in `kernels/causal`; `to_data` with guidance and without."""

    to_latent: Map
    to_data: Map
    to_data_with_score: Map
    to_latent_backward: Map


def causal_ops(suffix: str = "") -> CausalMaps:
    """Through PyTorch's dispatcher; suffix "_reference" for the reference on any device."""

    return CausalMaps(*(dispatched(f"causal_flow_{name}{suffix}") for name in CausalMaps._fields))


class CausalInputs(NamedTuple):
    """A call's tensors."""

    x: torch.Tensor  # (rows, tokens, D), data for to_latent and noise for to_data
    term: torch.Tensor  # (groups, blocks, width)
    unconditional_term: torch.Tensor  # (1, blocks, width)
    grad: torch.Tensor  # (rows, tokens, D)
    grad_log_det: torch.Tensor  # (rows,)
    parameters: CausalParameters

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "CausalInputs":
        """Every tensor changed alike."""
        return CausalInputs._make([*map(function, self[:-1]), CausalParameters._make(map(function, self.parameters))])


@dataclass(frozen=True)
class CausalProblem:
    """What is computed."""

    case: CausalCase
    rows: int
    groups: int
    prefix: bool = False
    bound: float | None = None

    @property
    def name(self) -> str:
        """As in `causal-256`, with what is unusual about it."""
        unusual = [f"{self.groups} contexts"] if self.groups != self.rows else []
        unusual += ["prefix"] if self.prefix else []
        unusual += [f"bound {self.bound}"] if self.bound is not None else []
        return f"{self.case.name}-{self.rows}" + (f" ({', '.join(unusual)})" if unusual else "")

    @property
    def terms(self) -> int:
        """How many terms a row's log-density sums."""
        return self.case.tokens * self.case.features * (self.case.blocks + 1)

    def maps(self, suffix: str) -> CausalMaps:
        """See `causal_ops`."""
        return causal_ops(suffix)

    def inputs(self, device: torch.device, seed: int = 0) -> CausalInputs:
        """Random tensors, float32."""
        generator, case = torch.Generator(device).manual_seed(seed), self.case

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=device)

        event = (self.rows, case.tokens, case.features)
        terms = (normal(self.groups, case.blocks, case.width), normal(1, case.blocks, case.width))
        return CausalInputs(normal(*event), *terms, normal(*event), normal(self.rows), _weights(case, device)[0])

    def run(
        self, maps: CausalMaps, inputs: CausalInputs, arithmetic: Arithmetic, states: torch.Tensor | None = None
    ) -> Results:
        """All ops on `inputs`; the derivative starts from `states`, or from what the forward gave."""
        i, (_, heads) = inputs, _weights(self.case, inputs.x.device)
        settings = (i.parameters, heads, self.prefix, 1e-5, self.bound, COMPUTE_DTYPES[arithmetic])
        with matmul_precision("tf32" if arithmetic == "tf32" else "ieee"):
            latent = maps.to_latent(i.x, i.term, *settings)
            data = maps.to_data(i.x, i.term, *settings, None, 0.0, False, None)
            guided = maps.to_data(i.x, i.term, *settings, i.unconditional_term, GUIDANCE, True, None)
            score = maps.to_data_with_score(i.x, i.term, *settings)
            states = latent[2] if states is None else states
            back = maps.to_latent_backward(i.grad, i.grad_log_det, states, i.term, *settings, True)
        found = {"to_latent z": latent[0], "to_latent log_det": latent[1], "to_latent inputs": latent[2]}
        found |= {"to_data x": data[0], "to_data log_det": data[1]}
        found |= {"to_data guided x": guided[0], "to_data guided log_det": guided[1]}
        found |= {"score x": score[0], "score log_det": score[1], "score score": score[2]}
        names = ("x", "term", *CausalParameters._fields)
        found |= {f"to_latent_backward grad of {of}": grad for of, grad in zip(names, back, strict=True)}
        return Results(found, latent[2])


@functools.cache
def _weights(case: CausalCase, device: torch.device) -> tuple[CausalParameters, int]:
    """Parameters of a random flow, and its number of heads."""
    flow = random_causal_flow(case)
    parameters = CausalParameters(*(getattr(flow, name).detach().to(device) for name in CausalParameters._fields))
    return parameters._replace(output_weight=parameters.output_weight * CALM), flow.heads
