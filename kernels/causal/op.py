"""The causal flow's ops: checks, registration, gradients and public functions."""

from typing import Any

import torch

from nfkern.kernels.causal import backends, cpu_kernels, reference, sampling
from nfkern.kernels.causal.checks import check_backward, check_latent, check_sampling, check_score, check_tolerance
from nfkern.kernels.causal.parameters import CausalParameters
from nfkern.kernels.causal.schema import PARAMETER_COUNT, PARAMETERS, SETTINGS, fake, fake_backward, unflattened
from nfkern.kernels.dispatch.op_transforms import Rows
from nfkern.kernels.dispatch.registry import define, may_differentiate, refuse_gradient, refuse_second_gradient

METHODS = ("auto", "cached", "jacobi")
TOLERANCE = 1e-6
"""Largest change of a row in a Jacobi iteration's last step, relative to its largest token, in float32."""

KEPT_BYTES = 1 << 30
"""Bytes of hidden activations that a forward pass on a CPU may keep; autograd keeps more for an eager flow.

Loss and gradients of 256 sequences of 16 tokens, 283 MB kept: 1.89 s against 2.43 (Zen 4, one thread, 2026-11).
"""

_SETTINGS_END = PARAMETER_COUNT + len(reference.Settings._fields)


def _without_parameters(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return a derivative's arguments without kept activations; None if it sums weights' gradients over rows."""
    after = 4 + _SETTINGS_END
    return None if args[after] else args[: after + 1]


_to_latent_backward = define(
    "causal_flow_to_latent_backward",
    f"(Tensor grad, Tensor grad_log_det, Tensor inputs, Tensor context_term, {PARAMETERS}, {SETTINGS}, "
    f"bool parameter_grads, Tensor? kept=None) -> ({', '.join(['Tensor'] * (2 + PARAMETER_COUNT))})",
    rank=3,
    reference=unflattened(reference.to_latent_backward, 4),
    fake=fake_backward,
    backward=refuse_second_gradient("causal_flow to_latent"),
    rows=Rows({0: 0, 1: 0, 2: 1}, (0, *[None] * (1 + PARAMETER_COUNT)), groups=3, prepare=_without_parameters),
    check=unflattened(check_backward, 4),
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _, context_term, *rest = inputs
    *ctx.settings, keep_hidden = rest[PARAMETER_COUNT:]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[3] if keep_hidden else None, output[2], context_term, *rest[:PARAMETER_COUNT])


def _backward(
    ctx: Any, grad: torch.Tensor | None, grad_log_det: torch.Tensor | None, *_: torch.Tensor | None
) -> tuple[Any, ...]:
    parameter_grads = any(ctx.needs_input_grad[1:])
    kept, inputs, context_term, *parameters = ctx.saved_tensors
    grad = torch.zeros_like(inputs.select(-4, 0)) if grad is None else grad
    grad_log_det = grad.new_zeros(grad.shape[:-2]) if grad_log_det is None else grad_log_det
    grad_x, grad_term, *rest = _to_latent_backward(
        grad, grad_log_det, inputs, context_term, *parameters, *ctx.settings, parameter_grads, kept
    )
    settings = (None,) * (len(ctx.settings) + 1)
    if not parameter_grads:
        return grad_x, None, *((None,) * PARAMETER_COUNT), *settings
    return grad_x, grad_term, *rest, *settings


_to_latent = define(
    "causal_flow_to_latent",
    f"(Tensor x, Tensor context_term, {PARAMETERS}, {SETTINGS}, bool keep_hidden=False) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    rank=3,
    reference=unflattened(reference.to_latent, 2),
    fake=fake,
    backward=_backward,
    check=unflattened(check_latent, 2),
    setup_context=_setup_context,
    # Without kept activations, whose layout depends on the rows.
    rows=Rows({0: 0}, (0, 0, 1, None), groups=1, prepare=lambda args: args[: 2 + _SETTINGS_END]),
    cpu=backends.cpu(cpu_kernels.to_latent, cpu_kernels.reasons),
    cuda=backends.cuda("to_latent"),
)
_to_data = define(
    "causal_flow_to_data",
    f"(Tensor z, Tensor context_term, {PARAMETERS}, {SETTINGS}, Tensor? unconditional_term, float guidance, "
    "bool annealed, float? tolerance) -> (Tensor, Tensor)",
    rank=3,
    reference=unflattened(sampling.to_data, 2),
    fake=lambda z, *_: (z.new_empty(z.shape), z.new_empty(z.shape[:1])),
    backward=refuse_gradient("sampling from a causal flow"),
    # An iteration goes on until the last of its rows stays: how far depends on them all.
    rows=Rows({0: 0}, (0, 0), groups=1, prepare=lambda args: args if args[-1] is None else None),
    differentiable_reference=False,
    check=unflattened(check_sampling, 2),
    cpu=backends.cpu(cpu_kernels.to_data, cpu_kernels.sampling_reasons),
    cuda=backends.cuda("to_data"),
)
_to_data_with_score = define(
    "causal_flow_to_data_with_score",
    f"(Tensor z, Tensor context_term, {PARAMETERS}, {SETTINGS}) -> (Tensor, Tensor, Tensor)",
    rank=3,
    reference=unflattened(sampling.to_data_with_score, 2),
    fake=lambda z, *_: (z.new_empty(z.shape), z.new_empty(z.shape[:1]), z.new_empty(z.shape)),
    backward=refuse_gradient("the score of a causal flow"),
    rows=Rows({0: 0}, (0, 0, 0), groups=1),
    differentiable_reference=False,
    check=unflattened(check_score, 2),
    cpu=backends.cpu(cpu_kernels.to_data_with_score, cpu_kernels.reasons),
    cuda=backends.cuda("to_data_with_score"),
)


def to_latent(
    x: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    *,
    heads: int,
    prefix: bool = False,
    norm_eps: float = 1e-5,
    scale_bound: float | None = None,
    compute_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Map data to noise through all blocks of a causal flow, all tokens at once.

    Args:
        x: (rows, tokens, features), with at most as many tokens as there are positions.
        context_term: (groups, blocks, width), each first layer's bias with the context projected into it; row r sees
            group `r // (rows / groups)`.
        parameters: the stacked transformers.
        heads: of every attention; a divisor of the width.
        prefix: whether the context term is a position before the first token instead of being added to every token.
        norm_eps: LayerNorm's epsilon.
        scale_bound: bound of |log_scale|, smooth (tanh); None for none.
        compute_dtype: dtype of the layers' products; None for that of x. Everything else stays in the dtype of x.

    Returns:
        z (rows, tokens, features) and the map's log-determinant (rows), summed over tokens and features, in nats.

    Raises:
        ValueError: shapes that do not fit; the message names the argument.
        TypeError: dtypes or devices that differ from those of x.
    """
    arguments, settings = (x, context_term, *parameters), (heads, prefix, norm_eps, scale_bound, compute_dtype)
    keep_hidden = may_differentiate(arguments) and _keeps_hidden(*arguments, *settings)
    z, log_det, *_ = _to_latent.for_one_seed(*arguments, *settings, keep_hidden)
    return z, log_det


def to_data(
    z: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    *,
    heads: int,
    prefix: bool = False,
    norm_eps: float = 1e-5,
    scale_bound: float | None = None,
    compute_dtype: torch.dtype | None = None,
    method: str = "auto",
    tolerance: float | None = None,
    guidance: float = 0.0,
    unconditional_term: torch.Tensor | None = None,
    annealed: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Map noise to data, the inverse of `to_latent`, one token after the other.

    Args:
        z: (rows, tokens, features).
        context_term: as in `to_latent`.
        parameters: as in `to_latent`.
        heads: as in `to_latent`.
        prefix: as in `to_latent`.
        norm_eps: as in `to_latent`.
        scale_bound: as in `to_latent`.
        compute_dtype: as in `to_latent`.
        method: "cached" keeps every token's keys and values; "jacobi" guesses all tokens at once and repeats until they
            stay; "auto" is "cached", which no iteration has been measured to beat.
        tolerance: where a Jacobi iteration stops: a row's largest change over its largest token, in every row. None for
            the precision's.
        guidance: how far to lean away from the flow without context: pairs become
            `conditional + guidance * (conditional - unconditional)`; 0 for none.
        unconditional_term: (1, blocks, width), the term of no context, where there is guidance.
        annealed: whether guidance grows linearly over the tokens, to its full value at the last.

    Returns:
        x (rows, tokens, features) and the map's log-determinant (rows), with guidance that of the guided map.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    check_tolerance(tolerance)
    if method == "jacobi":
        tolerance = TOLERANCE * torch.finfo(z.dtype).eps / 2**-23 if tolerance is None else tolerance
    elif tolerance is not None:
        raise ValueError(f"tolerance: expected None for method={method!r}, got {tolerance!r}")
    x, log_det = _to_data.for_one_seed(
        z,
        context_term,
        *parameters,
        heads,
        prefix,
        norm_eps,
        scale_bound,
        compute_dtype,
        unconditional_term if guidance else None,
        guidance,
        annealed,
        tolerance,
    )
    return x, log_det


def to_data_with_score(
    z: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    *,
    heads: int,
    prefix: bool = False,
    norm_eps: float = 1e-5,
    scale_bound: float | None = None,
    compute_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Map noise to data and carry the score along: x, its log-determinant (rows) and grad_x log p(x), in one sweep.

    Arguments and errors as in `to_latent`. The base is N(0, I). Not differentiable.
    """
    settings = (heads, prefix, norm_eps, scale_bound, compute_dtype)
    x, log_det, score = _to_data_with_score.for_one_seed(z, context_term, *parameters, *settings)
    return x, log_det, score


def score(
    x: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    *,
    heads: int,
    prefix: bool = False,
    norm_eps: float = 1e-5,
    scale_bound: float | None = None,
    compute_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """grad_x log p(x), (rows, tokens, features), for the base N(0, I): the map's gradient, without autograd.

    Arguments and errors as in `to_latent`. Not differentiable.
    """
    settings = (heads, prefix, norm_eps, scale_bound, compute_dtype)
    keep_hidden = _keeps_hidden(x, context_term, *parameters, *settings)
    x, *detached = (each.detach() for each in (x, context_term, *parameters))
    z, log_det, inputs, kept = _to_latent.for_one_seed(x, *detached, *settings, keep_hidden)
    arguments = (-z, torch.ones_like(log_det), inputs, *detached, *settings, False)
    grad: torch.Tensor = _to_latent_backward(*arguments, kept if keep_hidden else None)[0]
    return grad


def _keeps_hidden(*arguments: Any) -> bool:
    """True if a pass keeps its hidden activations for the derivative: on a CPU, up to `KEPT_BYTES`."""
    _to_latent.check(*arguments)
    x, parameters = arguments[0], CausalParameters(*arguments[2 : 2 + PARAMETER_COUNT])
    blocks, layers, hidden, width = parameters.up_weight.shape
    size = x.shape[0] * x.shape[1] * blocks * layers * (5 * width + hidden) * x.itemsize
    return bool(x.device.type == "cpu" and size <= KEPT_BYTES)
