"""Flows of the same size from other packages: the same job, not the same function.

Their values cannot be held to the reference's. They are held to their own: log-determinants to those of autograd's
Jacobian, the inverse to a round trip, scores to finite differences, training's gradients and losses to theirs as they
are, all in float64.
"""

import copy
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from nfkern.bench.core.cases import FlowCase
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.core.sizes import nearest_width
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem, random_flow
from nfkern.bench.problems.training import AdamWStep
from nfkern.bench.rivals.compiled import Compiler, with_own_code

TOLERANCE = 1e-4
"""Of the largest entry. float32 was off by up to 3e-6 (2026-11, `chunked`); a wrong term shows in the first digits."""

_ROWS = 4
_STEP = 1e-6


class Pair(nn.Module):
    """Two networks in place of one: (batch, inputs) -> (batch, outputs of the first and the second in turns)."""

    def __init__(self, shift: nn.Module, log_scale: nn.Module) -> None:
        super().__init__()
        self.shift, self.log_scale = shift, log_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return results of both, in turns."""
        return torch.stack([self.shift(x), self.log_scale(x)], dim=-1).flatten(-2)


def widened(make: Callable[[int], nn.Module], case: FlowCase) -> nn.Module:
    """Return the flow of `make` whose number of parameters is nearest to nfkern's.

    Args:
        make: of a width, a flow; the number of its parameters grows with it.
        case: whose flow it is held to.
    """
    return make(nearest_width(lambda width: _count(make(width)), _count(random_flow(case))))


def _count(flow: nn.Module) -> int:
    return sum(parameter.numel() for parameter in flow.parameters())


def _double(tensors: tuple[torch.Tensor, ...], rows: int | None = _ROWS) -> list[torch.Tensor]:
    """In float64, without traces of autograd or inference mode."""
    return [tensor.detach()[:rows].double().clone() for tensor in tensors]


def _error(name: str, value: torch.Tensor, exact: torch.Tensor) -> str | None:
    value, exact = value.detach().double(), exact.detach()
    error, allowed = float((value - exact).abs().max()), TOLERANCE * float(exact.abs().max())
    # Written so that NaN fails.
    return None if error <= allowed else f"{name}: error {error:.3g} exceeds {allowed:.3g}"


def _jacobian_log_det(exact: Any, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Return the log-determinant of the density direction, row by row, (batch,)."""

    def one(row_context: torch.Tensor, row: torch.Tensor) -> Any:
        return exact.transform(row_context)(row)

    rows = zip(x, context, strict=True)
    jacobians = [torch.autograd.functional.jacobian(partial(one, its_context), row) for row, its_context in rows]
    log_det: torch.Tensor = torch.linalg.slogdet(torch.stack(jacobians)).logabsdet
    return log_det


def _check_log_prob(exact: Any, problem: FlowProblem, implementation: Implementation) -> str | None:
    found = implementation(*problem.inputs[0])[:_ROWS]
    x, context = _double(problem.inputs[0])
    z = exact.transform(context)(x)
    base = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)
    return _error("log_prob", found, base + _jacobian_log_det(exact, x, context))


def _check_inverse(exact: Any, problem: FlowProblem, implementation: Implementation) -> str | None:
    x, log_det = _double(implementation(*problem.inputs[0]))
    z, context = _double(problem.inputs[0])
    reason = _error("round trip", exact.transform(context)(x), z)
    return reason or _error("log_det", log_det, -_jacobian_log_det(exact, x, context))


def _check_action(exact: Any, problem: FlowProblem, implementation: Implementation) -> str | None:
    (action,) = _double((implementation(*problem.inputs[0]),))
    z, context = _double(problem.inputs[0])
    x = exact.transform(context).inv(z)
    steps = _STEP * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    log_prob = exact(context).log_prob
    score = torch.stack([(log_prob(x + step) - log_prob(x - step)) / (2 * _STEP) for step in steps], dim=1)
    return _error("action", action, x + SIGMA**2 * score)


def _gradients(step: AdamWStep) -> dict[str, torch.Tensor]:
    return {str(number): parameter.grad for number, parameter in enumerate(step.trained) if parameter.grad is not None}


def _check_training(exact: Any, problem: FlowProblem, implementation: Implementation) -> str | None:
    """The first gradients, and two losses: later ones drift apart, as AdamW makes steps of the smallest gradients.

    Losses alone do not show wrong gradients, of which AdamW's first step has only the signs.
    """
    first = problem.inputs[0]
    step = _training_step(exact, _uncompiled)
    losses, right_losses = [implementation(*first)], [step(*_double(first, None))]
    found, right = implementation.gradients() if implementation.gradients else {}, _gradients(step)
    if found.keys() != right.keys():
        return f"gradients: expected those of {len(right)} parameters, got {len(found)}"
    reason = _error("gradients", *(torch.cat([each[name].flatten() for name in right]) for each in (found, right)))
    losses.append(implementation(*first))
    right_losses.append(step(*_double(first, None)))
    return reason or _error("losses", torch.stack(losses), torch.stack(right_losses))


def _prepare_acting(flow: nn.Module) -> None:
    """Evaluation, in which some packages keep what depends on weights alone."""
    flow.eval().requires_grad_(False)


def _log_prob(flow: Any, compiler: Compiler) -> Callable[..., Any]:
    _prepare_acting(flow)
    return compiler(lambda x, context: flow(context).log_prob(x))


def _inverse(flow: Any, compiler: Compiler) -> Callable[..., Any]:
    _prepare_acting(flow)
    return compiler(lambda z, context: flow.transform(context).inv.call_and_ladj(z))


def _denoised_action(flow: Any, compiler: Compiler) -> Callable[..., Any]:
    _prepare_acting(flow)

    def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        distribution = flow(context)
        x = distribution.transform.inv(noise)
        with torch.enable_grad():
            x = x.requires_grad_()
            (score,) = torch.autograd.grad(distribution.log_prob(x).sum(), x)
        action: torch.Tensor = x.detach() + SIGMA**2 * score
        return action

    return compiler(act)


def _training_step(flow: Any, compiler: Compiler) -> AdamWStep:
    return AdamWStep(flow.parameters(), compiler(lambda x, context: -flow(context).log_prob(x).mean()))


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
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
    compiled = torch.compile(with_own_code(function), dynamic=False)

    def run(*inputs: torch.Tensor) -> Any:
        with torch.inference_mode(False):
            return compiled(*inputs)

    return run


def _builder(
    make: Callable[[FlowCase], Any],
    function: Callable[[Any, Compiler], Callable[..., Any]],
    check: Callable[..., str | None],
    compiler: Compiler,
) -> Builder:
    def build(problem: FlowProblem) -> Implementation:
        # The check differentiates, which tensors made in inference mode do not allow.
        with torch.inference_mode(False):
            flow = make(problem.case).to(problem.inputs[0][0].device)
            exact = copy.deepcopy(flow).double()

        def outside_inference_mode(implementation: Implementation) -> str | None:
            with torch.inference_mode(False), torch.enable_grad():
                return check(exact, problem, implementation)

        run = function(flow, compiler)
        gradients = partial(_gradients, run) if isinstance(run, AdamWStep) else None
        return Implementation(run, gradients, check=outside_inference_mode, parameters=_count(flow))

    return build


def builders(make: Callable[[FlowCase], Any], compiled: bool = False) -> Mapping[str, Builder]:
    """A variant's builders, by work.

    Args:
        make: a flow of a case's shape, the same at every call: a module which, given contexts, is a distribution with
            `log_prob(x)`, and whose `transform`, given contexts, is a transform from data to noise with `inv`, of which
            `call_and_ladj` also gives the log-determinant. Those are zuko's names.
        compiled: whether torch.compile has it, in its default mode.
    """
    works: dict[str, tuple[Callable[..., Callable[..., Any]], Callable[..., str | None]]] = {
        "log_prob": (_log_prob, _check_log_prob),
        "inverse": (_inverse, _check_inverse),
        "denoised_action": (_denoised_action, _check_action),
        "training_step": (_training_step, _check_training),
    }
    compiler = _compiled if compiled else _uncompiled
    return {name: _builder(make, function, check, compiler) for name, (function, check) in works.items()}
