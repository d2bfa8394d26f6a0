"""The coupling flow's derivatives on a GPU: their launches. Each function equals its namesake in `reference.py`.

A derivative first computes hidden units again from each block's input, all blocks in one launch, then takes one launch
a block; the score's are computed once, on the way from noise to data. The parameters' gradients come from factors of
(rows, width) that the kernels leave, by batched products over the rows.
"""

from typing import Any, NamedTuple

import torch

from nfkern.kernels.coupling import triton_backward_kernels, triton_step_kernels
from nfkern.kernels.coupling.parameters import CouplingParameters, Settings
from nfkern.kernels.coupling.triton_launch import (
    ForwardChain,
    Hidden,
    Problem,
    problem,
    seeded,
    tiles,
    unseeded,
)
from nfkern.kernels.dispatch.triton_backend import Launcher, dependent, launch, programs

SCRATCH_BYTES = 1 << 30
"""Bytes of scratch that bound the blocks of a derivative at a time; it takes at least one."""


def to_latent_backward(*args: Any) -> tuple[torch.Tensor, ...]:
    """Gradients of x and, with the last argument true, of everything else; see the reference."""
    return _backward("to_latent", *args)


def to_data_backward(*args: Any) -> tuple[torch.Tensor, ...]:
    """Gradients of z and, with the last argument true, of everything else; see the reference."""
    return _backward("to_data", *args)


def to_data_with_score(
    z: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    inverse_mixing: torch.Tensor,
    inverse_log_det: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
) -> tuple[torch.Tensor, ...]:
    """Noise to data with the score; see the reference."""
    p = problem(z, context_term, inverse_mixing, parameters, settings)
    chain = ForwardChain(p, True, seeded(z, 2), seeded(inverse_log_det, 0), save=True)
    blocks, score = p.constants["BLOCKS"], torch.empty_like(chain.result)
    matrices, factors = seeded(mixing, 3), _Factors.none(p)
    derivative = _Derivative(
        p, "score", matrices, chain.inputs, chain.mixed, chain.hidden, factors, 0, blocks, *[score] * 3
    )
    for step in range(blocks + 1):
        chain.run(step)
        derivative.run(step)
    return unseeded(z, chain.result, chain.log_det, score)


GRADIENT_TILE = 32
"""Rows and columns of weights that a program of `parameter_gradients_kernel` takes at once."""


class _Factors(NamedTuple):
    """Factors whose products are the parameters' gradients."""

    grad1: torch.Tensor  # (seeds, rows, blocks, 2, h1), laid out as the context term, whose gradient it also is
    normalized1: torch.Tensor  # (seeds, span, 2, rows, h1)
    normalized2: torch.Tensor  # (seeds, span, 2, rows, h2)
    grad2: torch.Tensor  # (seeds, span, 2, rows, h2)
    grad3: torch.Tensor  # (seeds, span, 2, rows, transformed)

    @classmethod
    def none(cls, p: Problem) -> "_Factors":
        """Return empty factors, for calls that want no gradients of parameters."""
        return cls(*(p.new(0) for _ in cls._fields))

    @classmethod
    def allocate(cls, p: Problem, grad1: torch.Tensor, span: int) -> "_Factors":
        """Return uninitialised factors for a range of `span` blocks."""
        c, hidden_dtype, lead = p.constants, p.folded[1].dtype, (p.seeds, span, 2, p.rows)
        return cls(
            grad1,
            p.new(*lead, c["WIDTH1"], dtype=hidden_dtype),
            p.new(*lead, c["WIDTH2"]),
            p.new(*lead, c["WIDTH2"], dtype=hidden_dtype),
            p.new(*lead, c["FEATURES"] // 2),
        )


class _Derivative:
    """The launches of a derivative over blocks [first, first + span); `run` takes them in turn."""

    def __init__(
        self,
        p: Problem,
        mode: str,
        mixing: torch.Tensor,
        inputs: torch.Tensor,
        mixed: torch.Tensor,
        hidden: Hidden,
        factors: _Factors,
        first: int,
        span: int,
        grad: torch.Tensor,
        grad_log_det: torch.Tensor,
        result: torch.Tensor,
    ) -> None:
        self.p, self.mode, self.inputs, self.mixed = p, mode, inputs, mixed
        self.hidden, self.factors, self.first, self.span = hidden, factors, first, span
        features, width1 = p.constants["FEATURES"], p.constants["WIDTH1"]
        self.slices = programs(width1, tiles(hidden.config, p)["CHUNK2"])
        pending = p.new(p.seeds, span, p.rows, features)
        self.mixed_grad = torch.empty_like(pending)
        self.launcher = Launcher(
            triton_backward_kernels.backward_step_kernel,
            grad, grad_log_det, inputs, p.term, mixing, *p.folded, mixed, *hidden.tensors,
            pending, p.new(p.seeds, span, 2, self.slices, p.rows, (features + 1) // 2), self.mixed_grad, result,
            *factors, p.rows, p.groups, *p.numbers, first, span,
            **p.constants, **tiles(hidden.config, p), **dependent(p.term.device), MODE=mode,
            STORE=factors.grad1.numel() > 0, SLICES=hidden.slices, SLICES1=self.slices,
        )  # fmt: skip

    def run(self, step: int) -> None:
        """Finish the gradient of the block before `step` and begin the next block's."""
        slices = 1 if step == self.span else 2 * self.slices
        self.launcher((programs(self.p.rows, self.hidden.config.tile), slices, self.p.seeds), step)


def _backward(
    mode: str,
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    mixing: torch.Tensor,
    parameters: CouplingParameters,
    settings: Settings,
    parameter_grads: bool,
) -> tuple[torch.Tensor, ...]:
    p = problem(grad, context_term, mixing, parameters, settings)
    c, states, log_det_grad, flowing = p.constants, seeded(inputs, 3), seeded(grad_log_det, 1), seeded(grad, 2)
    mixed, collected = p.states(), list[tuple[torch.Tensor, ...]]()
    grad1 = p.new(p.seeds, p.rows, c["BLOCKS"], 2, c["WIDTH1"]) if parameter_grads else None
    span = max(1, min(c["BLOCKS"], SCRATCH_BYTES // _bytes_of_a_block(p)))
    ranges = [(first, min(span, c["BLOCKS"] - first)) for first in range(0, c["BLOCKS"], span)]
    for first, size in ranges if mode == "to_data" else ranges[::-1]:
        hidden = _recompute(p, mode, states, mixed, first, size)
        factors = _Factors.none(p) if grad1 is None else _Factors.allocate(p, grad1, size)
        incoming, flowing = flowing, torch.empty_like(flowing)
        derivative = _Derivative(
            p, mode, p.mixing, states, mixed, hidden, factors, first, size, incoming, log_det_grad, flowing
        )
        for step in range(size + 1):
            derivative.run(step)
        if grad1 is not None:
            collected.append(_products(derivative))
    if grad1 is None:
        return (*unseeded(grad, flowing), *(grad.new_empty(0) for _ in range(2 + len(CouplingParameters._fields))))
    if mode != "to_data":
        collected.reverse()
    joined = (parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in zip(*collected, strict=True))
    grad_mixing, *sums = joined
    grad_term = grad1 if p.groups == p.rows else grad1.unflatten(1, (p.groups, p.rows // p.groups)).sum(2)
    if parameters.folded:
        return unseeded(grad, flowing, grad_term, grad_mixing, *(grad.new_empty(0) for _ in parameters))
    return unseeded(grad, flowing, grad_term, grad_mixing, *_parameter_gradients(p, parameters, *sums))


def _bytes_of_a_block(p: Problem) -> int:
    """Bytes of one block's scratch, approximately: both networks' hidden units, in and out, in float32."""
    width1, width2 = int(p.constants["WIDTH1"]), int(p.constants["WIDTH2"])
    return 4 * 2 * p.seeds * p.rows * (width1 + 3 * width2)


def _recompute(p: Problem, mode: str, states: torch.Tensor, mixed: torch.Tensor, first: int, span: int) -> Hidden:
    """Hidden units of blocks [first, first + span) from their inputs, in one launch; to_latent's `mixed` as well."""
    h = Hidden.allocate(p, span, span)
    grid = (programs(p.rows, h.config.tile), span * 2 * h.slices, p.seeds)
    launch(
        triton_step_kernels.forward_step_kernel, grid,
        states, p.term, p.mixing, states, *p.folded, states, mixed, states, states, states, *h.tensors,
        p.rows, p.groups, *p.numbers, first, span, 0,
        **p.constants, **tiles(h.config, p), **dependent(p.term.device), TO_DATA=mode == "to_data", CHAIN=False,
        SAVE=True, SLICES=h.slices,
    )  # fmt: skip
    return h


def _products(d: _Derivative) -> tuple[torch.Tensor, ...]:
    """Sums over rows for a range of blocks: the mixing's gradient, then the arguments of `_parameter_gradients`."""
    f, blocks = d.factors, slice(d.first, d.first + d.span)
    before, after = (d.mixed, d.inputs) if d.mode == "to_data" else (d.inputs, d.mixed)
    kept = after[:, blocks, :, : (d.p.constants["FEATURES"] + 1) // 2]
    grad1 = f.grad1[:, :, blocks].movedim(1, 3)
    return (
        before[:, blocks].mT @ d.mixed_grad,
        grad1.mT @ kept.unsqueeze(2),
        f.grad2.mT @ f.normalized1,
        f.grad3.mT @ f.normalized2,
        f.grad2.sum(-2, keepdim=True, dtype=torch.float32),
        f.grad3.sum(-2, keepdim=True),
    )


def _parameter_gradients(
    p: Problem, parameters: CouplingParameters, input_grad: torch.Tensor, *products: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """`conditioner.parameter_gradients` in one launch, with seeds in front; layer 2's product may be in 16 bits."""
    outer1, outer2, sums2, sums3 = products
    q, c = parameters, p.constants
    given = [(q.hidden_weight, q.norm1_weight, q.norm1_bias), (q.output_weight, q.norm2_weight, q.norm2_bias)]
    layers = [
        [seeded(each, rank) for each, rank in zip(layer, (4, 3, 3), strict=True) if each is not None] for layer in given
    ]
    grads = [[torch.empty_like(each) for each in layer] for layer in layers]
    launch(
        triton_backward_kernels.parameter_gradients_kernel,
        (programs(max(c["WIDTH1"], c["WIDTH2"]), GRADIENT_TILE), p.seeds * c["BLOCKS"] * 2, 2),
        outer1, sums2, *layers[0], *grads[0], outer2, sums3, *layers[1], *grads[1],
        MOVED=c["FEATURES"] // 2, WIDTH1=c["WIDTH1"], WIDTH2=c["WIDTH2"], TILE=GRADIENT_TILE, COLUMNS=GRADIENT_TILE,
    )  # fmt: skip
    (hidden, norm1_weight, norm1_bias), (output, norm2_weight, norm2_bias) = grads
    hidden_bias, output_bias = sums2.squeeze(-2), sums3.squeeze(-2)
    return input_grad, norm1_weight, norm1_bias, hidden, hidden_bias, norm2_weight, norm2_bias, output, output_bias
