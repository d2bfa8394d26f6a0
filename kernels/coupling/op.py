"""The coupling flow's ops: checks, registration, gradients and public functions."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from nfkern.kernels.coupling import backends, cpu_kernels, reference
from nfkern.kernels.coupling.checks import check_backward, check_map, check_score
from nfkern.kernels.coupling.parameters import CouplingParameters
from nfkern.kernels.coupling.schema import (
    PARAMETER_COUNT,
    PARAMETERS,
    SETTINGS,
    SETTINGS_END,
    fake,
    fake_backward,
    unflattened,
)
from nfkern.kernels.dispatch.op_transforms import Rows
from nfkern.kernels.dispatch.registry import Op, define, may_differentiate, refuse_gradient, refuse_second_gradient

HIDDEN_BYTES = 32 << 20
"""Bytes of hidden activations that a forward pass on a CPU may keep.

Loss and gradients of the paper's flow, computed again against kept, on a Zen 4 core with 32 MiB of last cache, 2026-11:
6 MiB 23.6 against 19.9 ms, 24 MiB 88 against 73, 48 MiB 176 against 172, 96 MiB 387 against 384.
"""


def _define_backward(name: str, function: Callable[..., Any], native: Callable[..., Any]) -> Op:
    results = ", ".join(["Tensor"] * (3 + PARAMETER_COUNT))
    return define(
        f"coupling_{name}_backward",
        f"(Tensor grad, Tensor grad_log_det, Tensor inputs, Tensor context_term, Tensor mixing, {PARAMETERS}, "
        f"{SETTINGS}, bool parameter_grads, Tensor? hidden=None) -> ({results})",
        rank=2,
        reference=unflattened(function, 5),
        fake=fake_backward,
        backward=refuse_second_gradient(f"coupling {name}"),
        rows=Rows({0: 0, 1: 0, 2: 1}, (0, *[None] * (2 + PARAMETER_COUNT)), groups=3, prepare=_without_parameters),
        check=unflattened(check_backward, 5),
        cpu=backends.cpu(native, 5),
        cuda=backends.cuda("triton_derivatives", f"{name}_backward", 5),
    )


def _without_parameters(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return a derivative's arguments without kept activations; None if it sums weights' gradients over rows."""
    after = 5 + SETTINGS_END
    return None if args[after] else args[: after + 1]


def _define_direction(name: str, function: Callable[..., Any], native: Callable[..., Any], backward_op: Op) -> Op:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        _, context_term, mixing, _, *parameters = inputs[: 4 + PARAMETER_COUNT]
        *ctx.settings, keep_hidden = inputs[4 + PARAMETER_COUNT :]
        # Results that nobody differentiates, and kept hidden units are the largest, get no zeros for gradients.
        ctx.set_materialize_grads(False)
        # A GPU's kernels keep nothing, whatever they are told.
        hidden = output[3] if keep_hidden and output[3].numel() else None
        ctx.save_for_backward(hidden, output[2], context_term, mixing, *parameters)

    def backward(
        ctx: Any, grad: torch.Tensor | None, grad_log_det: torch.Tensor | None, *_: torch.Tensor | None
    ) -> tuple[Any, ...]:
        parameter_grads = any(ctx.needs_input_grad[1:])
        hidden, *saved = ctx.saved_tensors
        inputs = saved[0]
        grad = torch.zeros_like(inputs.select(-3, 0)) if grad is None else grad
        grad_log_det = grad.new_zeros(grad.shape[:-1]) if grad_log_det is None else grad_log_det
        folded = CouplingParameters(*saved[3:]).folded
        if folded and any(ctx.needs_input_grad[4 : 4 + PARAMETER_COUNT]):
            raise RuntimeError("nfkern: the weights of a folded coupling flow have no gradients; train it unfolded")
        grad_x, *rest = backward_op(grad, grad_log_det, *saved, *ctx.settings, parameter_grads, hidden)
        if not parameter_grads:
            return (grad_x, *(None for _ in range(3 + PARAMETER_COUNT + 4)))
        grad_term, grad_mixing, *parameters = rest
        parameters = [None] * PARAMETER_COUNT if folded else parameters
        return grad_x, grad_term, grad_mixing, grad_log_det.sum(-1), *parameters, None, None, None, None

    return define(
        f"coupling_{name}",
        f"(Tensor x, Tensor context_term, Tensor mixing, Tensor mixing_log_det, {PARAMETERS}, {SETTINGS}, "
        "bool keep_hidden=False) -> (Tensor, Tensor, Tensor, Tensor)",
        rank=2,
        reference=unflattened(function, 4),
        fake=fake,
        backward=backward,
        check=unflattened(functools.partial(check_map, "x" if name == "to_latent" else "z"), 4),
        setup_context=setup_context,
        # Without hidden activations, whose layout depends on the rows.
        rows=Rows({0: 0}, (0, 0, 1, None), groups=1, prepare=lambda args: args[: 4 + SETTINGS_END]),
        cpu=backends.cpu(native, 4),
        cuda=backends.cuda("triton_launch", name, 4),
    )


_to_latent_backward = _define_backward("to_latent", reference.to_latent_backward, cpu_kernels.to_latent_backward)
_to_data_backward = _define_backward("to_data", reference.to_data_backward, cpu_kernels.to_data_backward)
_to_latent = _define_direction("to_latent", reference.to_latent, cpu_kernels.to_latent, _to_latent_backward)
_to_data = _define_direction("to_data", reference.to_data, cpu_kernels.to_data, _to_data_backward)
_to_data_with_score = define(
    "coupling_to_data_with_score",
    "(Tensor z, Tensor context_term, Tensor mixing, Tensor inverse_mixing, Tensor inverse_log_det, "
    f"{PARAMETERS}, {SETTINGS}) -> (Tensor, Tensor, Tensor)",
    rank=2,
    reference=unflattened(reference.to_data_with_score, 5),
    fake=lambda z, *rest: (z.new_empty(z.shape), z.new_empty(z.shape[:1]), z.new_empty(z.shape)),
    backward=refuse_gradient("the score of a coupling flow"),
    rows=Rows({0: 0}, (0, 0, 0), groups=1),
    check=unflattened(check_score, 5),
    cpu=backends.cpu(cpu_kernels.to_data_with_score, 5),
    cuda=backends.cuda("triton_derivatives", "to_data_with_score", 5),
)


def to_latent(
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    mixing_log_det: torch.Tensor,
    parameters: CouplingParameters,
    *,
    norm_eps: float = 1e-5,
    scale_bound: float | None = None,
    compute_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Map data to noise through all blocks of a coupling flow.

    Args:
        x: (rows, features).
        context_term: (groups, blocks, 2, h1), the first layers' bias with the context projected into it; row r sees
            group `r // (rows / groups)`.
        mixing: (blocks, features, features), from `compose`.
        mixing_log_det: (), from `compose`.
        parameters: the stacked conditioners, folded or not.
        norm_eps: LayerNorm's epsilon.
        scale_bound: bound of |log_scale|, smooth (tanh); None for none.
        compute_dtype: dtype of the hidden products; None for that of x. Everything else stays in the dtype of x. On a
            GPU, float32 products are full or tf32 as `torch.backends.cuda.matmul.fp32_precision` says.

    Returns:
        z (rows, features) and the map's log-determinant (rows), in nats.

    Raises:
        ValueError: shapes that do not fit; the message names the argument.
        TypeError: dtypes or devices that differ from those of x.
    """
    arguments = (x, context_term, mixing, mixing_log_det, *parameters, norm_eps, scale_bound, compute_dtype)
    z, log_det, *_ = _to_latent.for_one_seed(*arguments, _keeps_hidden(_to_latent, arguments))
    return z, log_det


def to_data(
    z: torch.Tensor,
    context_term: torch.Tensor,
    inverse_mixing: torch.Tensor,
    inverse_log_det: torch.Tensor,
    parameters: CouplingParameters,
    *,
    norm_eps: float = 1e-5,
    scale_bound: float | None = None,
    compute_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Map noise to data, the inverse of `to_latent`; arguments and errors as there.

    `inverse_mixing` and `inverse_log_det` come from `compose(..., inverse=True)`.
    """
    arguments = (z, context_term, inverse_mixing, inverse_log_det, *parameters, norm_eps, scale_bound, compute_dtype)
    x, log_det, *_ = _to_data.for_one_seed(*arguments, _keeps_hidden(_to_data, arguments))
    return x, log_det


def to_data_with_score(
    z: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    inverse_mixing: torch.Tensor,
    inverse_log_det: torch.Tensor,
    parameters: CouplingParameters,
    *,
    norm_eps: float = 1e-5,
    scale_bound: float | None = None,
    compute_dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Map noise to data and carry the score along: x, its log-determinant (rows) and grad_x log p(x), in one sweep.

    Arguments and errors as in `to_data`. The base is N(0, I). Not differentiable.
    """
    x, log_det, score = _to_data_with_score.for_one_seed(
        z, context_term, mixing, inverse_mixing, inverse_log_det, *parameters, norm_eps, scale_bound, compute_dtype
    )
    return x, log_det, score


def score(
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    mixing_log_det: torch.Tensor,
    parameters: CouplingParameters,
    *,
    inverted: bool = False,
    norm_eps: float = 1e-5,
    scale_bound: float | None = None,
    compute_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """grad_x log p(x), (rows, features), for the base N(0, I): the map's gradient, without autograd.

    Arguments and errors as in `to_latent`. With `inverted` the flow's map to noise is `to_data`, and `mixing` and
    `mixing_log_det` are its inverses. Not differentiable.
    """
    op, backward_op = (_to_data, _to_data_backward) if inverted else (_to_latent, _to_latent_backward)
    settings = (norm_eps, scale_bound, compute_dtype)
    detached = x.detach() if isinstance(x, torch.Tensor) else x
    z, log_det, inputs, _ = op.for_one_seed(detached, context_term, mixing, mixing_log_det, *parameters, *settings)
    ones = torch.ones_like(log_det)
    grad: torch.Tensor = backward_op(-z, ones, inputs, context_term, mixing, *parameters, *settings, False)[0]
    return grad


def _keeps_hidden(op: Op, arguments: tuple[Any, ...]) -> bool:
    """True if a pass over these arguments keeps its hidden activations for the derivative.

    On a CPU it should while they stay in the last cache or near it: see `HIDDEN_BYTES`. A GPU's kernels recompute them.
    """
    if not may_differentiate(arguments):
        return False
    op.check(*arguments)
    x = arguments[0]
    blocks, _, width2, width1 = CouplingParameters(*arguments[4 : 4 + PARAMETER_COUNT]).hidden_weight.shape
    return bool(x.device.type == "cpu" and x.shape[0] * blocks * 2 * (width1 + width2) * x.itemsize <= HIDDEN_BYTES)
