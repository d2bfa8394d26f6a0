"""Calls of the ops on random tensors: GPU checks compare their results, and the list of kernels is what they launch."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch.utils._pytree import tree_map_only

from nfkern.bench.core.cases import CausalCase, FlowCase
from nfkern.bench.problems.flow_problem import random_causal_flow, random_flow
from nfkern.kernels import CausalParameters, CouplingParameters
from nfkern.kernels.coupling.parameters import Settings
from nfkern.kernels.dispatch.examples import every_example
from nfkern.kernels.plu.reference import compose

Arithmetic = Literal["ieee", "tf32", "bf16", "fp16"]
ARITHMETICS: tuple[Arithmetic, ...] = ("ieee", "tf32", "bf16", "fp16")
COMPUTE_DTYPES = {"ieee": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

GUIDANCE = 0.5
CALM = 0.25
"""Factor of a causal flow's last weights: every token scales those after it, and guidance the more so, up to infinity.
"""

Tensors = tuple[torch.Tensor, ...]
Ops = Callable[..., Tensors]
"""Takes an op's name and its arguments, parameters and settings as tuples."""


def ops(name: str, *args: Any) -> Tensors:
    """Call an op through PyTorch's dispatcher; tuples are spread out in their place, for a schema is flat."""
    flat = [part for arg in args for part in (arg if isinstance(arg, tuple) else (arg,))]
    results = getattr(torch.ops.nfkern, name).default(*flat)
    return results if isinstance(results, tuple) else (results,)


def reference_ops(name: str, *args: Any) -> Tensors:
    """Call an op's reference, on any device."""
    return ops(f"{name}_reference", *args)


class Results(NamedTuple):
    """Results by name; and each block's input, which derivatives start from."""

    found: dict[str, torch.Tensor]
    states: Tensors


class Calls(ABC):
    """A set of calls.

    Attributes:
        name: as in `ogbench-256`, with what is unusual about it.
        rows: of a call.
        terms: summed by a row's result.
        blocks: whose roundings add up in a derivative.
    """

    def __init__(self, name: str, rows: int, terms: int, blocks: int) -> None:
        self.name, self.rows, self.terms, self.blocks = name, rows, terms, blocks

    def inputs(self, device: torch.device, seed: int = 0) -> Any:
        """Return random tensors in float32, nested in tuples; on "meta", shapes alone."""
        return self._inputs(device, seed)

    def run(self, ops: Ops, inputs: Any, arithmetic: Arithmetic, states: Tensors = ()) -> Results:
        """Make all calls; derivatives start from `states`, or from what the maps gave."""
        with matmul_precision("tf32" if arithmetic == "tf32" else "ieee"):
            return self._run(ops, inputs, COMPUTE_DTYPES[arithmetic], states)

    @abstractmethod
    def _inputs(self, device: torch.device, seed: int) -> Any: ...

    @abstractmethod
    def _run(self, ops: Ops, inputs: Any, compute_dtype: torch.dtype | None, states: Tensors) -> Results: ...


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    """Return inputs with their floating-point tensors in a dtype."""
    return tree_map_only(torch.Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)


class ExampleCalls(Calls):
    """An op on examples of its own folder, named as there: a new op is checked and compiled without an edit here."""

    def __init__(self, name: str) -> None:
        tensors = [each for each in every_example()[name] if isinstance(each, torch.Tensor)]
        rows = len(tensors[0])
        super().__init__(name, rows, terms=max(1, max(each.numel() for each in tensors) // rows), blocks=1)

    @classmethod
    def of_all_ops(cls) -> "list[ExampleCalls]":
        """Return the examples that any device computes alike: no 16-bit products, and nothing kept for a derivative."""
        return [
            cls(name)
            for name, arguments in every_example().items()
            if not name.endswith(" kept") and not any(argument is torch.bfloat16 for argument in arguments)
        ]

    def _inputs(self, device: torch.device, seed: int) -> Any:
        moved = (each.to(device) if isinstance(each, torch.Tensor) else each for each in every_example(seed)[self.name])
        return cast(tuple(moved), torch.float32)

    def _run(self, ops: Ops, inputs: Any, compute_dtype: torch.dtype | None, states: Tensors) -> Results:
        results = ops(self.name.partition(" ")[0], *inputs)
        return Results({f"result {k}": each for k, each in enumerate(results) if each.numel()}, ())


class CouplingInputs(NamedTuple):
    """A call's tensors; with seeds, all of them have a seed dimension in front."""

    x: torch.Tensor  # (rows, D), data for to_latent and noise for to_data
    term: torch.Tensor  # (groups, blocks, 2, h1)
    grad: torch.Tensor  # (rows, D)
    grad_log_det: torch.Tensor  # (rows,)
    lu: torch.Tensor
    permutation: torch.Tensor
    mixing: torch.Tensor
    mixing_log_det: torch.Tensor
    inverse: torch.Tensor
    inverse_log_det: torch.Tensor
    parameters: CouplingParameters


class CouplingCalls(Calls):
    """A coupling flow's ops; `seeds` 0 for tensors without a seed dimension, `parts` what to call beside the maps."""

    def __init__(
        self,
        case: FlowCase,
        rows: int,
        groups: int | None = None,
        bound: float | None = None,
        seeds: int = 0,
        parts: Collection[str] = ("derivatives", "matrices"),
    ) -> None:
        self.case, self.groups, self.bound, self.seeds, self.parts = case, groups or rows, bound, seeds, parts
        unusual = {f"{groups} contexts": groups, f"bound {bound}": bound, f"{seeds} seeds": seeds}
        super().__init__(_name(case, rows, unusual), rows, case.features * (case.blocks + 1), case.blocks)

    def _inputs(self, device: torch.device, seed: int) -> CouplingInputs:
        case, lead = self.case, (self.seeds,) if self.seeds else ()
        new = _normal(device, seed)
        weights = _coupling_weights(case, device)
        if self.seeds:
            # Another seed's weights are the same blocks in another order; a sum over them stays as it is.
            weights = tree_map_only(torch.Tensor, functools.partial(_over_seeds, seeds=self.seeds), weights)
        return CouplingInputs(
            new(*lead, self.rows, case.features),
            new(*lead, self.groups, case.blocks, 2, case.hidden[0]),
            new(*lead, self.rows, case.features),
            new(*lead, self.rows),
            *weights,
        )

    def _run(self, ops: Ops, inputs: CouplingInputs, compute_dtype: torch.dtype | None, states: Tensors) -> Results:
        i, settings = inputs, (inputs.parameters, Settings(self.case.norm_eps, self.bound, compute_dtype))
        z, latent_log_det, latent, *_ = ops("coupling_to_latent", i.x, i.term, i.mixing, i.mixing_log_det, *settings)
        x, data_log_det, data, *_ = ops("coupling_to_data", i.x, i.term, i.inverse, i.inverse_log_det, *settings)
        found = _named("to_latent", ("z", "log_det", "inputs"), (z, latent_log_det, latent))
        found |= _named("to_data", ("x", "log_det", "inputs"), (x, data_log_det, data))
        if "derivatives" in self.parts:
            found |= self._derivatives(ops, i, settings, states or (latent, data))
        if "matrices" in self.parts:
            found |= self._matrices(ops, i)
        return Results(found, (latent, data))

    def _derivatives(
        self, ops: Ops, i: CouplingInputs, settings: tuple[Any, ...], states: Tensors
    ) -> dict[str, torch.Tensor]:
        matrices = (i.mixing, i.inverse, i.inverse_log_det)
        score = ops("coupling_to_data_with_score", i.x, i.term, *matrices, *settings)
        found = _named("to_data_with_score", ("x", "log_det", "score"), score)
        names = ("x", "term", "mixing", *CouplingParameters._fields)
        for direction, matrix, started in zip(("to_latent", "to_data"), (i.mixing, i.inverse), states, strict=True):
            arguments = (i.grad, i.grad_log_det, started, i.term, matrix, *settings)
            grads, alone = (ops(f"coupling_{direction}_backward", *arguments, every) for every in (True, False))
            found |= _named(f"{direction}_backward grad of", names, grads)
            found[f"{direction}_backward alone grad of x"] = alone[0]
        return found

    def _matrices(self, ops: Ops, i: CouplingInputs) -> dict[str, torch.Tensor]:
        """Call the other ops of a flow: its matrices, and the base density."""
        found = {}
        for kind, inverse in (("matrix", False), ("inverse", True)):
            factors = (i.lu, i.permutation, inverse)
            found[f"compose {kind}"], found[f"compose {kind} log_det"] = ops("plu_compose", *factors)
            (grad,) = ops("plu_compose_backward", i.mixing, i.mixing_log_det, *factors)
            found[f"compose_backward {kind} grad of lu"] = grad
        (found["base log_prob"],) = ops("standard_normal_log_prob", i.x)
        (found["base_backward grad of x"],) = ops("standard_normal_log_prob_backward", i.grad_log_det, i.x)
        return found


class CausalInputs(NamedTuple):
    """A call's tensors."""

    x: torch.Tensor  # (rows, tokens, D), data for to_latent and noise for to_data
    term: torch.Tensor  # (groups, blocks, width)
    unconditional_term: torch.Tensor  # (1, blocks, width)
    grad: torch.Tensor  # (rows, tokens, D)
    grad_log_det: torch.Tensor  # (rows,)
    parameters: CausalParameters


class CausalCalls(Calls):
    """A causal flow's ops; sampling with guidance and without."""

    def __init__(
        self, case: CausalCase, rows: int, groups: int | None = None, prefix: bool = False, bound: float | None = None
    ) -> None:
        self.case, self.groups, self.prefix, self.bound = case, groups or rows, prefix, bound
        unusual = {f"{groups} contexts": groups, "prefix": prefix, f"bound {bound}": bound}
        terms = case.tokens * case.features * (case.blocks + 1)
        super().__init__(_name(case, rows, unusual), rows, terms, case.blocks)

    def _inputs(self, device: torch.device, seed: int) -> CausalInputs:
        case, new, event = self.case, _normal(device, seed), (self.rows, self.case.tokens, self.case.features)
        terms = new(self.groups, case.blocks, case.width), new(1, case.blocks, case.width)
        return CausalInputs(new(*event), *terms, new(*event), new(self.rows), _causal_weights(case, device)[0])

    def _run(self, ops: Ops, inputs: CausalInputs, compute_dtype: torch.dtype | None, states: Tensors) -> Results:
        i, (_, heads) = inputs, _causal_weights(self.case, inputs.x.device)
        settings = (i.parameters, heads, self.prefix, 1e-5, self.bound, compute_dtype)
        latent = ops("causal_flow_to_latent", i.x, i.term, *settings)
        data = ops("causal_flow_to_data", i.x, i.term, *settings, None, 0.0, False, None)
        guided = ops("causal_flow_to_data", i.x, i.term, *settings, i.unconditional_term, GUIDANCE, True, None)
        score = ops("causal_flow_to_data_with_score", i.x, i.term, *settings)
        (started,) = states or (latent[2],)
        back = ops("causal_flow_to_latent_backward", i.grad, i.grad_log_det, started, i.term, *settings, True)
        found = _named("to_latent", ("z", "log_det", "inputs"), latent[:3])
        found |= _named("to_data", ("x", "log_det"), data) | _named("to_data guided", ("x", "log_det"), guided)
        found |= _named("to_data_with_score", ("x", "log_det", "score"), score)
        found |= _named("to_latent_backward grad of", ("x", "term", *CausalParameters._fields), back)
        return Results(found, (latent[2],))


def _named(prefix: str, names: Sequence[str], results: Tensors) -> dict[str, torch.Tensor]:
    return {f"{prefix} {name}": result for name, result in zip(names, results, strict=True)}


def _name(case: FlowCase | CausalCase, rows: int, unusual: dict[str, Any]) -> str:
    what = ", ".join(text for text, given in unusual.items() if given)
    return f"{case.name}-{rows}" + (f" ({what})" if what else "")


def _normal(device: torch.device, seed: int) -> Callable[..., torch.Tensor]:
    """Return a function from a shape to normal numbers; on "meta" there are none to draw."""
    if device.type == "meta":
        return functools.partial(torch.empty, device=device)
    return functools.partial(torch.randn, generator=torch.Generator(device).manual_seed(seed), device=device)


def _over_seeds(tensor: torch.Tensor, seeds: int) -> torch.Tensor:
    return torch.stack([tensor.roll(seed, 0) if tensor.ndim else tensor for seed in range(seeds)])


@functools.cache
def _coupling_weights(case: FlowCase, device: torch.device) -> tuple[Any, ...]:
    """Factors, matrices, their inverses and parameters of a random flow."""
    flow = random_flow(case)
    parameters = CouplingParameters(*(getattr(flow, name).detach().to(device) for name in CouplingParameters._fields))
    lu, permutation = flow.mixing_lu.detach(), flow.permutation
    matrices = (each.float() for inverse in (False, True) for each in compose(lu.double(), permutation, inverse))
    return (*(each.to(device) for each in (lu, permutation, *matrices)), parameters)


@functools.cache
def _causal_weights(case: CausalCase, device: torch.device) -> tuple[CausalParameters, int]:
    """Parameters of a random flow, and its number of heads."""
    flow = random_causal_flow(case)
    parameters = CausalParameters(*(getattr(flow, name).detach().to(device) for name in CausalParameters._fields))
    return parameters._replace(output_weight=parameters.output_weight * CALM), flow.heads


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Set PyTorch's own switch between full float32 and tf32, which the kernels heed."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, precision
    try:
        yield
    finally:
        matmul.fp32_precision = before
