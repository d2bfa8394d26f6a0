"""Random calls of the coupling ops, with the right results in float64."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch

from nfkern.bench.core.cases import FlowCase
from nfkern.bench.problems.flow_problem import random_flow
from nfkern.kernels import CouplingParameters
from nfkern.kernels.coupling import reference
from nfkern.kernels.coupling.conditioner import NEGATIVE_SLOPE, conditioner, expand_context
from nfkern.kernels.coupling.parameters import Settings
from nfkern.kernels.plu.reference import compose

Arithmetic = Literal["ieee", "tf32", "bf16", "fp16"]
ARITHMETICS: tuple[Arithmetic, ...] = ("ieee", "tf32", "bf16", "fp16")
COMPUTE_DTYPES = {"ieee": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

KINK_MARGIN = 2e-5
"""float32 preactivations are off by up to 7e-6 in twelve blocks of `chunked` (measured 2026-11, against float64)."""

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

    def function(name: str) -> Map:
        op = getattr(torch.ops.nfkern, f"coupling_{name}{suffix}").default

        def call(*args: Any) -> Tensors:
            # A schema is flat: parameters and settings are spread out in their place.
            flat = [part for arg in args for part in (arg if isinstance(arg, tuple) else (arg,))]
            results: Tensors = op(*flat)
            return results

        return call

    return Maps(*map(function, Maps._fields))


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


class AnyProblem(Protocol):
    """What the checks need of a problem of either kind of flow: its inputs and states go from one call to another."""

    @property
    def case(self) -> Any:
        """The flow's shape."""

    @property
    def rows(self) -> int:
        """Events in a call."""

    @property
    def name(self) -> str:
        """With what is unusual about it."""

    @property
    def terms(self) -> int:
        """How many terms a row's log-density sums."""

    def maps(self, suffix: str) -> Any:
        """Its ops through PyTorch's dispatcher; suffix "_reference" for the reference."""

    def inputs(self, device: torch.device, seed: int = 0) -> Any:
        """A named tuple of random tensors, the parameters last."""

    def run(self, maps: Any, inputs: Any, arithmetic: Arithmetic, states: Any = None) -> "Results":
        """All ops on `inputs`; derivatives start from `states`, or from what the forward gave."""


@dataclass(frozen=True)
class Problem:
    """What is computed; `seeds` 0 for tensors without a seed dimension."""

    case: FlowCase
    rows: int
    groups: int
    bound: float | None = None
    seeds: int = 0

    @property
    def name(self) -> str:
        """As in `ogbench-256`, with what is unusual about it."""
        unusual = [f"{self.groups} contexts"] if self.groups != self.rows else []
        unusual += [f"bound {self.bound}"] if self.bound is not None else []
        unusual += [f"{self.seeds} seeds"] if self.seeds else []
        return f"{self.case.name}-{self.rows}" + (f" ({', '.join(unusual)})" if unusual else "")

    @property
    def terms(self) -> int:
        """How many terms a row's log-density sums."""
        return self.case.features * (self.case.blocks + 1)

    def maps(self, suffix: str) -> Maps:
        """See `ops`."""
        return ops(suffix)

    def inputs(self, device: torch.device, seed: int = 0) -> Inputs:
        """Random tensors, float32, away from the kinks of LeakyReLUs so that rounding decides about none."""
        generator = torch.Generator(device).manual_seed(seed)
        lead, features = ((self.seeds,) if self.seeds else ()), self.case.features
        parameters, mixing = _weights(self.case, device)
        if self.seeds:
            # Another seed's weights are the same blocks in another order.
            parameters = CouplingParameters._make(None if t is None else self._rolled(t) for t in parameters)
            mixing = self._rolled(mixing)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*lead, *shape, generator=generator, device=device)

        inverse = torch.linalg.inv(mixing.double()).float()
        log_det = torch.linalg.slogdet(mixing.double()).logabsdet.sum(-1).float()
        inputs = Inputs(
            normal(self.rows, features),
            normal(self.groups, self.case.blocks, 2, self.case.hidden[0]),
            mixing,
            log_det,
            inverse,
            -log_det,
            normal(self.rows, features),
            normal(self.rows),
            parameters,
        )
        pending = torch.arange(self.rows, device=device)
        while len(pending):
            near = self._kink_distance(inputs.map(torch.Tensor.double), pending) < KINK_MARGIN
            pending = pending[near]
            inputs.x[..., pending, :] = normal(len(pending), features)
        return inputs

    def run(self, maps: Maps, inputs: Inputs, arithmetic: Arithmetic, states: "States | None" = None) -> "Results":
        """All five ops on `inputs`; the backwards start from `states`, or from what the forward gave."""
        i, settings = inputs, (inputs.parameters, Settings(self.case.norm_eps, self.bound, COMPUTE_DTYPES[arithmetic]))
        with matmul_precision("tf32" if arithmetic == "tf32" else "ieee"):
            latent = maps.to_latent(i.x, i.term, i.mixing, i.mixing_log_det, *settings)
            data = maps.to_data(i.x, i.term, i.inverse, i.inverse_log_det, *settings)
            score = maps.to_data_with_score(i.x, i.term, i.mixing, i.inverse, i.inverse_log_det, *settings)
            states = states or States(latent[2], data[2])
            grads = (i.grad, i.grad_log_det)
            back = maps.to_latent_backward(*grads, states.latent, i.term, i.mixing, *settings, True)
            forth = maps.to_data_backward(*grads, states.data, i.term, i.inverse, *settings, True)
            alone = maps.to_latent_backward(*grads, states.latent, i.term, i.mixing, *settings, False)
        found = {"to_latent z": latent[0], "to_latent log_det": latent[1], "to_latent inputs": latent[2]}
        found |= {"to_data x": data[0], "to_data log_det": data[1], "to_data inputs": data[2]}
        found |= {"score x": score[0], "score log_det": score[1], "score score": score[2]}
        names = ("term", "mixing", *CouplingParameters._fields)
        for name, results in (("to_latent_backward", back), ("to_data_backward", forth)):
            found[f"{name} grad of x"] = results[0]
            found |= {f"{name} grad of {of}": grad for of, grad in zip(names, results[1:], strict=True)}
        found["to_latent_backward alone grad of x"] = alone[0]
        return Results(found, States(latent[2], data[2]))

    def _rolled(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor.roll(seed, 0) for seed in range(self.seeds)])

    def _kink_distance(self, inputs: Inputs, rows: torch.Tensor) -> torch.Tensor:
        """How near `rows` come to a kink in either direction, whatever the seed, (len(rows),)."""
        every = [inputs.map(lambda t, s=seed: t[s]) for seed in range(self.seeds)] if self.seeds else [inputs]  # type: ignore[misc]
        nearest = [torch.full(rows.shape, torch.inf, dtype=torch.float64, device=rows.device)]
        for i in every:
            x, term = i.x[rows], i.term[rows // (self.rows // self.groups)]
            settings = Settings(self.case.norm_eps, self.bound, None)
            into = reference.to_latent(x, term, i.mixing, i.mixing_log_det, i.parameters, settings)[2]
            out = reference.to_data(x, term, i.inverse, i.inverse_log_det, i.parameters, settings)[2]
            for states in (into @ i.mixing, out):
                kept = states[..., : (self.case.features + 1) // 2]
                terms = expand_context(term, len(x))
                for k, block in enumerate(i.parameters.blocks()):
                    _, layers = conditioner(kept[k], terms[k], block, settings)
                    for layer in layers:
                        activation = layer.activation
                        preactivation = torch.where(activation > 0, activation, activation / -NEGATIVE_SLOPE)
                        nearest.append(preactivation.amin((0, 2)))
        return torch.stack(nearest).amin(0)


class States(NamedTuple):
    """Each block's input in both directions, which the backwards start from."""

    latent: torch.Tensor
    data: torch.Tensor

    def float(self) -> "States":
        """Rounded to float32."""
        return States(self.latent.float(), self.data.float())


class Results(NamedTuple):
    """What the ops gave, by name, and each block's input."""

    found: dict[str, torch.Tensor]
    states: Any


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
