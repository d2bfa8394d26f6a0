"""The coupling flow's derivatives on a GPU: their launches. Each function equals its namesake in `reference.py`.

A derivative first computes hidden units again from each block's input, all blocks in one launch, then takes one launch
a block; the score's are computed once, on the way from noise to data. The parameters' gradients come from factors of
(rows, width) that the kernels leave, by batched products over the rows.
"""

from typing import Any, NamedTuple

import torch
import triton

from nfkern.kernels.coupling import triton_backward_kernels, triton_step_kernels
from nfkern.kernels.coupling.conditioner import parameter_gradients
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
from nfkern.kernels.dispatch.triton_backend import dependent, launch

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
    derivative = _Derivative(p, "score", matrices, chain.inputs, chain.mixed, chain.hidden, factors, 0, blocks)
    for step in range(blocks + 1):
        chain.run(step)
        derivative.run(step, score, score, score)
    return unseeded(z, chain.result, chain.log_det, score)


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
    ) -> None:
        self.p, self.mode, self.mixing, self.inputs, self.mixed = p, mode, mixing, inputs, mixed
        self.hidden, self.factors, self.first, self.span = hidden, factors, first, span
        features, width1 = p.constants["FEATURES"], p.constants["WIDTH1"]
        self.slices = triton.cdiv(width1, tiles(hidden.config, p)["CHUNK2"])
        self.pending = p.new(p.seeds, span, p.rows, features)
        self.mixed_grad = torch.empty_like(self.pending)
        self.parts = p.new(p.seeds, span, 2, self.slices, p.rows, (features + 1) // 2)

    def run(self, step: int, grad: torch.Tensor, grad_log_det: torch.Tensor, result: torch.Tensor) -> None:
        """Finish the gradient of the block before `step` and begin the next block's."""
        p, h = self.p, self.hidden
        grid = (triton.cdiv(p.rows, h.config.tile), 1 if step == self.span else 2 * self.slices, p.seeds)
        launch(
            triton_backward_kernels.backward_step_kernel, grid,
            grad, grad_log_det, self.inputs, p.term, self.mixing, *p.folded, self.mixed, *h.tensors,
            self.pending, self.parts, self.mixed_grad, result, *self.factors,
            p.rows, p.groups, *p.numbers, self.first, self.span, step,
            **p.constants, **tiles(h.config, p), **dependent(p.term.device), MODE=self.mode,
            STORE=self.factors.grad1.numel() > 0, SLICES=h.slices, SLICES1=self.slices,
        )  # fmt: skip


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
        derivative = _Derivative(p, mode, p.mixing, states, mixed, hidden, factors, first, size)
        incoming, flowing = flowing, torch.empty_like(flowing)
        for step in range(size + 1):
            derivative.run(step, incoming, log_det_grad, flowing)
        if grad1 is not None:
            collected.append(_products(derivative))
    if grad1 is None:
        return (*unseeded(grad, flowing), *(grad.new_empty(0) for _ in range(2 + len(CouplingParameters._fields))))
    if mode != "to_data":
        collected.reverse()
    grad_mixing, *sums = (torch.cat(parts, 1) for parts in zip(*collected, strict=True))
    grad_term = grad1 if p.groups == p.rows else grad1.unflatten(1, (p.groups, p.rows // p.groups)).sum(2)
    if parameters.folded:
        return unseeded(grad, flowing, grad_term, grad_mixing, *(grad.new_empty(0) for _ in parameters))
    grads = parameter_gradients(parameters.shaped(), *sums)
    return unseeded(grad, flowing, grad_term, grad_mixing, *(found for found in grads if found is not None))


def _bytes_of_a_block(p: Problem) -> int:
    """Bytes of one block's scratch, approximately: both networks' hidden units, in and out, in float32."""
    width1, width2 = int(p.constants["WIDTH1"]), int(p.constants["WIDTH2"])
    return 4 * 2 * p.seeds * p.rows * (width1 + 3 * width2)


def _recompute(p: Problem, mode: str, states: torch.Tensor, mixed: torch.Tensor, first: int, span: int) -> Hidden:
    """Hidden units of blocks [first, first + span) from their inputs, in one launch; to_latent's `mixed` as well."""
    h = Hidden.allocate(p, span, span)
    grid = (triton.cdiv(p.rows, h.config.tile), span * 2 * h.slices, p.seeds)
    launch(
        triton_step_kernels.forward_step_kernel, grid,
        states, p.term, p.mixing, states, *p.folded, states, mixed, states, states, states, *h.tensors,
        p.rows, p.groups, *p.numbers, first, span, 0,
        **p.constants, **tiles(h.config, p), **dependent(p.term.device), TO_DATA=mode == "to_data", CHAIN=False,
        SAVE=True, SLICES=h.slices,
    )  # fmt: skip
    return h


def _products(d: _Derivative) -> tuple[torch.Tensor, ...]:
    """Sums over rows for a range of blocks: the mixing's gradient, then the arguments of `parameter_gradients`."""
    f, blocks = d.factors, slice(d.first, d.first + d.span)
    before, after = (d.mixed, d.inputs) if d.mode == "to_data" else (d.inputs, d.mixed)
    kept = after[:, blocks, :, : (d.p.constants["FEATURES"] + 1) // 2]
    grad1 = f.grad1[:, :, blocks].movedim(1, 3)
    return (
        before[:, blocks].mT @ d.mixed_grad,
        grad1.mT @ kept.unsqueeze(2),
        (f.grad2.mT @ f.normalized1).float(),
        f.grad3.mT @ f.normalized2,
        f.grad2.sum(-2, keepdim=True, dtype=torch.float32),
        f.grad3.sum(-2, keepdim=True),
    )
