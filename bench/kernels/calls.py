"""Random calls of the coupling ops, for checks and timings."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch

from nfkern.bench.core.cases import FlowCase
from nfkern.bench.problems.flow_problem import random_flow
from nfkern.kernels import CouplingParameters
from nfkern.kernels.plu.reference import compose

Arithmetic = Literal["ieee", "tf32", "bf16", "fp16"]
ARITHMETICS: tuple[Arithmetic, ...] = ("ieee", "tf32", "bf16", "fp16")
COMPUTE_DTYPES = {"ieee": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

Tensors = tuple[torch.Tensor, ...]
Map = Callable[..., Tensors]


class Maps(NamedTuple):
    """The five ops, each called as its namesake in `kernels/coupling/reference.py`."""

    to_latent: Map
    to_data: Map
    to_data_with_score: Map
    to_latent_backward: Map
    to_data_backward: Map


def ops(suffix: str = "") -> Maps:
    """Through PyTorch's dispatcher; suffix "_reference" for the reference on any device."""
    return Maps(*(dispatched(f"coupling_{name}{suffix}") for name in Maps._fields))


def dispatched(name: str) -> Map:
    """Return an op by name as a function that takes parameters and settings as tuples."""
    op = getattr(torch.ops.nfkern, name).default

    def call(*args: Any) -> Tensors:
        # A schema is flat: tuples are spread out in their place.
        results: Tensors = op(*[part for arg in args for part in (arg if isinstance(arg, tuple) else (arg,))])
        return results

    return call


class Inputs(NamedTuple):
    """A call's tensors; with seeds, all of them have a seed dimension in front."""

    x: torch.Tensor  # (rows, D), data for to_latent and noise for to_data
    term: torch.Tensor  # (groups, blocks, 2, h1)
    mixing: torch.Tensor
    mixing_log_det: torch.Tensor
    inverse: torch.Tensor
    inverse_log_det: torch.Tensor
    grad: torch.Tensor  # (rows, D)
    grad_log_det: torch.Tensor  # (rows,)
    parameters: CouplingParameters

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Inputs":
        """Every tensor changed alike."""
        parameters = (None if tensor is None else function(tensor) for tensor in self.parameters)
        return Inputs._make([*map(function, self[:-1]), CouplingParameters._make(parameters)])


def random_inputs(case: FlowCase, rows: int, groups: int, generator: torch.Generator, seeds: int = 0) -> Inputs:
    """Random float32 arguments of the ops for a flow of random weights; with seeds, all in front of everything."""
    lead, device = ((seeds,) if seeds else ()), generator.device
    parameters, mixing = _weights(case, device)
    if seeds:
        # Another seed's weights are the same blocks in another order.
        parameters = CouplingParameters._make(None if t is None else _rolled(t, seeds) for t in parameters)
        mixing = _rolled(mixing, seeds)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*lead, *shape, generator=generator, device=device)

    inverse = torch.linalg.inv(mixing.double()).float()
    log_det = torch.linalg.slogdet(mixing.double()).logabsdet.sum(-1).float()
    return Inputs(
        normal(rows, case.features),
        normal(groups, case.blocks, 2, case.hidden[0]),
        mixing,
        log_det,
        inverse,
        -log_det,
        normal(rows, case.features),
        normal(rows),
        parameters,
    )


def _rolled(tensor: torch.Tensor, seeds: int) -> torch.Tensor:
    return torch.stack([tensor.roll(seed, 0) for seed in range(seeds)])


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """PyTorch's own switch between full float32 and tf32, which the kernels heed."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


@functools.cache
def _weights(case: FlowCase, device: torch.device) -> tuple[CouplingParameters, torch.Tensor]:
    """Parameters and mixing matrices of a random flow."""
    flow = random_flow(case)
    tensors = (getattr(flow, name).detach().to(device) for name in CouplingParameters._fields)
    mixing, _ = compose(flow.mixing_lu.detach(), flow.permutation, False)
    return CouplingParameters(*tensors), mixing.to(device)
