"""The coupling flow's ops: checks, registration, gradients and public functions."""

from collections.abc import Callable
from typing import Any

import torch

from nfkern.kernels.coupling import reference
from nfkern.kernels.coupling.conditioner import HiddenFactors
from nfkern.kernels.coupling.parameters import CouplingParameters
from nfkern.kernels.coupling.schema import PARAMETER_COUNT, PARAMETERS, SETTINGS, fake, fake_backward, unflattened
from nfkern.kernels.op_transforms import Rows, in_transform
from nfkern.kernels.registry import Op, define, may_differentiate, refuse_gradient, refuse_second_gradient

TakeFactors = Callable[[HiddenFactors], None]

HIDDEN_BYTES = 32 << 20
"""What a forward pass on a CPU may keep of hidden activations.

Loss and gradients of the paper's flow, computed again against kept, on a Zen 4 core with 32 MiB of last cache, 2026-11:
6 MiB 23.6 against 19.9 ms, 24 MiB 88 against 73, 48 MiB 176 against 172, 96 MiB 387 against 384.
"""


def _define_backward(name: str, function: Callable[..., Any]) -> Op:
    results = ", ".join(["Tensor"] * (3 + PARAMETER_COUNT))
    return define(
        f"coupling_{name}_backward",
        f"(Tensor grad, Tensor grad_log_det, Tensor inputs, Tensor context_term, Tensor mixing, {PARAMETERS}, "
        f"{SETTINGS}, bool parameter_grads, bool factors=False, Tensor? hidden=None) -> ({results})",
        rank=2,
        reference=unflattened(function, 5),
        fake=fake_backward,
        backward=refuse_second_gradient(f"coupling {name}"),
        rows=Rows({0: 0, 1: 0, 2: 1}, (0, *[None] * (2 + PARAMETER_COUNT)), groups=3, prepare=_without_parameters),
    )


def _without_parameters(args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """A derivative's arguments without what was kept, laid out by rows; None if it adds up weights' gradients."""
    after = 5 + PARAMETER_COUNT + 3
    return None if args[after] else args[: after + 1]


def _define_direction(name: str, function: Callable[..., Any], backward_op: Op) -> Op:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        _, context_term, mixing, _, *parameters = inputs[: 4 + PARAMETER_COUNT]
        *ctx.settings, keep_hidden = inputs[4 + PARAMETER_COUNT :]
        # Results that nobody differentiates, and kept hidden units are the largest, get no zeros for gradients.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[3] if keep_hidden else None, output[2], context_term, mixing, *parameters)

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
        grad_x, *rest = backward_op(grad, grad_log_det, *saved, *ctx.settings, parameter_grads, False, hidden)
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
        setup_context=setup_context,
        # Without hidden activations, whose layout depends on the rows.
        rows=Rows({0: 0}, (0, 0, 1, None), groups=1, prepare=lambda args: args[: 4 + PARAMETER_COUNT + 3]),
    )


_to_latent_backward = _define_backward("to_latent", reference.to_latent_backward)
_to_data_backward = _define_backward("to_data", reference.to_data_backward)
_to_latent = _define_direction("to_latent", reference.to_latent, _to_latent_backward)
_to_data = _define_direction("to_data", reference.to_data, _to_data_backward)
_to_data_with_score = define(
    "coupling_to_data_with_score",
    "(Tensor z, Tensor context_term, Tensor mixing, Tensor inverse_mixing, Tensor inverse_log_det, "
    f"{PARAMETERS}, {SETTINGS}) -> (Tensor, Tensor, Tensor)",
    rank=2,
    reference=unflattened(reference.to_data_with_score, 5),
    fake=lambda z, *rest: (z.new_empty(z.shape), z.new_empty(z.shape[:1]), z.new_empty(z.shape)),
    backward=refuse_gradient("the score of a coupling flow"),
    rows=Rows({0: 0}, (0, 0, 0), groups=1),
)


class _WithFactors(torch.autograd.Function):
    """A map whose backward leaves the largest product over the batch to `take`."""

    @staticmethod
    def forward(ctx: Any, op: Op, backward_op: Op, take: TakeFactors, *arguments: Any) -> tuple[torch.Tensor, ...]:
        result, log_det, inputs, _ = op(*arguments)
        _, context_term, mixing, _, *parameters = arguments[: 4 + PARAMETER_COUNT]
        ctx.backward_op, ctx.take, ctx.settings = backward_op, take, arguments[4 + PARAMETER_COUNT :]
        ctx.save_for_backward(inputs, context_term, mixing, *parameters)
        return result, log_det

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, grad_log_det: torch.Tensor) -> tuple[Any, ...]:
        grads = ctx.backward_op(grad, grad_log_det, *ctx.saved_tensors, *ctx.settings, True, True)
        grad_x, grad_term, grad_mixing, *rest = grads
        parameters = dict(zip(CouplingParameters._fields, rest, strict=True))
        ctx.take(HiddenFactors(parameters["hidden_weight"], parameters["norm1_weight"]))
        parameters |= {"hidden_weight": None, "norm1_weight": None}
        settings = (None,) * len(ctx.settings)
        return None, None, None, grad_x, grad_term, grad_mixing, grad_log_det.sum(), *parameters.values(), *settings


def _with_factors(
    op: Op, backward_op: Op, take: TakeFactors, arguments: tuple[Any, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    result, log_det = _WithFactors.apply(op, backward_op, take, *arguments)  # type: ignore[no-untyped-call]
    return result, log_det


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
    factors: TakeFactors | None = None,
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
        factors: where gradients are recorded, called in the backward pass with `HiddenFactors`, in place of gradients
            of hidden_weight and norm1_weight: for an optimiser that forms their product itself.

    Returns:
        z (rows, features) and the map's log-determinant (rows), in nats.

    Raises:
        ValueError: shapes that do not fit; the message names the argument.
        TypeError: dtypes or devices that differ from those of x.
    """
    _check(x, context_term, mixing, parameters, "x", compute_dtype)
    arguments = (x, context_term, mixing, mixing_log_det, *parameters, norm_eps, scale_bound, compute_dtype)
    if factors is not None and torch.is_grad_enabled() and not in_transform(arguments):
        return _with_factors(_to_latent, _to_latent_backward, factors, arguments)
    z, log_det, *_ = _to_latent(*arguments, _keeps_hidden(arguments, parameters))
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
    factors: TakeFactors | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Map noise to data, the inverse of `to_latent`; arguments and errors as there.

    `inverse_mixing` and `inverse_log_det` come from `compose(..., inverse=True)`.
    """
    _check(z, context_term, inverse_mixing, parameters, "z", compute_dtype)
    arguments = (z, context_term, inverse_mixing, inverse_log_det, *parameters, norm_eps, scale_bound, compute_dtype)
    if factors is not None and torch.is_grad_enabled() and not in_transform(arguments):
        return _with_factors(_to_data, _to_data_backward, factors, arguments)
    x, log_det, *_ = _to_data(*arguments, _keeps_hidden(arguments, parameters))
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
    _check(z, context_term, mixing, parameters, "z", compute_dtype)
    x, log_det, score = _to_data_with_score(
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
    _check(x, context_term, mixing, parameters, "x", compute_dtype)
    op, backward_op = (_to_data, _to_data_backward) if inverted else (_to_latent, _to_latent_backward)
    settings = (norm_eps, scale_bound, compute_dtype)
    z, log_det, inputs, _ = op(x.detach(), context_term, mixing, mixing_log_det, *parameters, *settings)
    ones = torch.ones_like(log_det)
    grad: torch.Tensor = backward_op(-z, ones, inputs, context_term, mixing, *parameters, *settings, False)[0]
    return grad


def _keeps_hidden(arguments: tuple[Any, ...], parameters: CouplingParameters) -> bool:
    """Whether a pass over these arguments should keep its hidden activations for the derivative.

    On a CPU it should while they stay in the last cache or near it: see `HIDDEN_BYTES`. A GPU's kernels recompute them.
    """
    x, _, mixing = arguments[:3]
    if x.device.type != "cpu" or not may_differentiate(arguments):
        return False
    *_, width2, width1 = parameters.hidden_weight.shape
    return bool(x.shape[0] * mixing.shape[0] * 2 * (width1 + width2) * x.itemsize <= HIDDEN_BYTES)


def _check(
    x: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    parameters: CouplingParameters,
    name: str,
    compute_dtype: torch.dtype | None,
) -> None:
    blocks, features = mixing.shape[0], mixing.shape[-1]
    if x.ndim != 2 or x.shape[1] != features:
        raise ValueError(f"{name}: expected shape (rows, {features}), got {tuple(x.shape)}")
    term_shape = (blocks, *parameters.input_weight.shape[1:3])
    groups = context_term.shape[0] if context_term.ndim == 4 else 0
    if context_term.shape[1:] != term_shape or (x.shape[0] % groups if groups else x.shape[0]):
        raise ValueError(
            f"context_term: expected shape (groups, {', '.join(map(str, term_shape))}) with groups dividing "
            f"{x.shape[0]} rows, got {tuple(context_term.shape)}"
        )
    for label, tensor in zip(("context_term", "mixing"), (context_term, mixing), strict=True):
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise TypeError(
                f"{label}: expected {x.dtype} on {x.device} as {name}, got {tensor.dtype} on {tensor.device}"
            )
    parameters.check(x.dtype, compute_dtype)
