"""Flows of the same size from other packages: the same job, not the same function.

Their values cannot be held to the reference's. They are held to their own: log-determinants to those of autograd's
Jacobian, the inverse to a round trip, scores to finite differences, training's gradients and losses to theirs as they
are, all in float64.
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from nfkern.bench.core.cases import FlowCase
from nfkern.bench.core.declarations import Implementation, Variant
from nfkern.bench.core.sizes import nearest_width
from nfkern.bench.problems.calls import Compiler, Model, called, denoised, uncompiled
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem, random_flow
from nfkern.bench.rivals.forms import with_own_code

TOLERANCE = 1e-4
"""Largest error over the largest entry: float32 was off by up to 3e-6 (2026-11, `chunked`), a wrong term is by more."""

_ROWS = 4
_STEP = 1e-6


class Library(Model):
    """A package's flow as a model; inputs and contexts are rows.

    Args:
        flow: the package's; weights and contexts are its own affair.
    """

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow

    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Noise (batch, D)."""
        raise NotImplementedError

    def log_prob(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Density, (batch,)."""
        found: torch.Tensor = self.flow.log_prob(x, context)
        return found

    def sampled(
        self, z: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        """Data (batch, D), and the density given these contexts."""
        return self.to_data(z, context)[0], lambda x: self.log_prob(x, context)

    def denoised_action(self, compiler: Compiler) -> Callable[..., torch.Tensor]:
        """The function (noise, context) -> denoised action, compiled as a whole."""

        def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            x, log_prob = self.sampled(noise, context)
            return denoised(x, lambda x: log_prob(x).sum())

        return compiler(act)

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients by the parameters' numbers."""
        return {str(number): p.grad for number, p in enumerate(self.parameters()) if p.grad is not None}


class Pair(nn.Module):
    """Two networks in place of one: (batch, inputs) -> (batch, outputs of the first and the second in turns)."""

    def __init__(self, shift: nn.Module, log_scale: nn.Module) -> None:
        super().__init__()
        self.shift, self.log_scale = shift, log_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return results of both, in turns."""
        return torch.stack([self.shift(x), self.log_scale(x)], dim=-1).flatten(-2)


def widened(make: Callable[[int], nn.Module], case: FlowCase) -> Any:
    """Return the flow of `make` whose number of parameters is nearest to nfkern's; it grows with the width given."""
    return make(nearest_width(lambda width: _count(make(width)), _count(random_flow(case))))


def _count(flow: nn.Module) -> int:
    return sum(parameter.numel() for parameter in flow.parameters())


def _double(tensors: Iterable[torch.Tensor], rows: int | None = _ROWS) -> list[torch.Tensor]:
    """In float64, without traces of autograd or inference mode."""
    return [tensor.detach()[:rows].double().clone() for tensor in tensors]


def _error(name: str, value: torch.Tensor, exact: torch.Tensor) -> str | None:
    value, exact = value.detach().double(), exact.detach()
    error, allowed = float((value - exact).abs().max()), TOLERANCE * float(exact.abs().max())
    # Written so that NaN fails.
    return None if error <= allowed else f"{name}: error {error:.3g} exceeds {allowed:.3g}"


def _jacobian_log_det(exact: Library, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Return the log-determinant of the density direction, row by row, (batch,)."""

    def one(row_context: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return exact.to_latent(row[None], row_context[None])[0]

    rows = zip(x, context, strict=True)
    jacobians = [torch.autograd.functional.jacobian(partial(one, its_context), row) for row, its_context in rows]
    log_det: torch.Tensor = torch.linalg.slogdet(torch.stack(jacobians)).logabsdet
    return log_det


def _check_log_prob(exact: Library, problem: FlowProblem, implementation: Implementation) -> str | None:
    found = implementation(*problem.inputs[0])[:_ROWS]
    x, context = _double(problem.inputs[0])
    base = -0.5 * (exact.to_latent(x, context) ** 2 + math.log(2 * math.pi)).sum(1)
    return _error("log_prob", found, base + _jacobian_log_det(exact, x, context))


def _check_inverse(exact: Library, problem: FlowProblem, implementation: Implementation) -> str | None:
    x, log_det = _double(implementation(*problem.inputs[0]))
    z, context = _double(problem.inputs[0])
    reason = _error("round trip", exact.to_latent(x, context), z)
    return reason or _error("log_det", log_det, -_jacobian_log_det(exact, x, context))


def _check_action(exact: Library, problem: FlowProblem, implementation: Implementation) -> str | None:
    (action,) = _double((implementation(*problem.inputs[0]),))
    x, log_prob = exact.sampled(*_double(problem.inputs[0]))
    steps = _STEP * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    score = torch.stack([(log_prob(x + step) - log_prob(x - step)) / (2 * _STEP) for step in steps], dim=1)
    return _error("action", action, x + SIGMA**2 * score)


def _check_training(exact: Library, problem: FlowProblem, implementation: Implementation) -> str | None:
    """The first gradients, and two losses: later ones drift apart, as AdamW makes steps of the smallest gradients.

    Losses alone do not show wrong gradients, of which AdamW's first step has only the signs.
    """
    first, step = problem.inputs[0], called(exact, "training_step")
    losses, right_losses = [implementation(*first)], [step(*_double(first, None))]
    found, right = implementation.gradients() if implementation.gradients else {}, exact.gradients()
    if found.keys() != right.keys():
        return f"gradients: expected those of {len(right)} parameters, got {len(found)}"
    reason = _error("gradients", *(torch.cat([each[name].flatten() for name in right]) for each in (found, right)))
    losses.append(implementation(*first))
    right_losses.append(step(*_double(first, None)))
    return reason or _error("losses", torch.stack(losses), torch.stack(right_losses))


_CHECKS = {
    "log_prob": _check_log_prob,
    "inverse": _check_inverse,
    "denoised_action": _check_action,
    "training_step": _check_training,
}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """An error in place of a silent fall-back to eager; dynamo's guards want tensors of one kind.

    normflows selects the entries within its splines' bounds, of which there are as many as the data say. PyTorch makes
    several graphs of that and compiles them for one number after another, unless it is told to keep selections: the
    inverse of 256 rows took 75 ms without and 28 ms with that, 37 as it is.
    """
    # For the process: patched at every call, they would cost 56 us each time.
    config = torch._dynamo.config
    config.capture_dynamic_output_shape_ops = True
    config.recompile_limit = config.accumulated_recompile_limit
    config.fail_on_recompile_limit_hit = True
    made = torch.compile(with_own_code(function), dynamic=False)

    def run(*inputs: torch.Tensor) -> Any:
        with torch.inference_mode(False):
            return made(*inputs)

    return run


def _build(make: Callable[[FlowCase], Library], compiler: Compiler, work: str, problem: FlowProblem) -> Implementation:
    # The check differentiates, which tensors made in inference mode do not allow.
    with torch.inference_mode(False):
        flow = make(problem.case).to(problem.inputs[0][0].device)
        exact = copy.deepcopy(flow).double()

    def check(implementation: Implementation) -> str | None:
        with torch.inference_mode(False), torch.enable_grad():
            return _CHECKS[work](exact, problem, implementation)

    # In evaluation some packages keep what depends on weights alone.
    built = called(flow.train(work == "training_step"), work, compiler)
    return replace(built, check=check, parameters=_count(flow))


def variants(
    name: str, summary: str, make: Callable[[FlowCase], Library], compiled_works: Iterable[str] = _CHECKS
) -> tuple[Variant, ...]:
    """A package's flow as it is, and under torch.compile in its default mode.

    Args:
        name: of the variant, which begins with the package's.
        summary: one line.
        make: a flow of a case's shape, the same at every call.
        compiled_works: those that torch.compile does right.
    """
    package = (name.partition("_")[0],)
    plain = {work: partial(_build, make, uncompiled, work) for work in _CHECKS}
    fast = {work: partial(_build, make, compiled, work) for work in compiled_works}
    return (
        Variant(name, summary, plain, requires=package, standing="same_size"),
        Variant(
            f"{name}_compile",
            f"{summary}, under torch.compile",
            fast,
            compiles=True,
            requires=package,
            standing="same_size",
        ),
    )
