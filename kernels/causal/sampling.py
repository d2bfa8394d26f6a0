"""The causal flow from noise to data: its definition, token by token with cached keys and values, or by iteration."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch._higher_order_ops import scan

from nfkern.kernels.affine.transform import AffineMap
from nfkern.kernels.causal.parameters import CausalParameters, LayerParameters
from nfkern.kernels.causal.reference import (
    Settings,
    Tensors,
    block_backward,
    embed,
    embed_tokens,
    in_order,
    output,
    positions,
    term_of,
    transformer,
)
from nfkern.kernels.causal.transformer import Cache, layer
from nfkern.kernels.dispatch.registry import scans


class Guidance(NamedTuple):
    """Strength of guidance away from the flow without context.

    The pairs become `conditional + weight * (conditional - unconditional)`; `annealed` lets the weight grow linearly
    over the positions, up to its full value at the last.
    """

    term: torch.Tensor  # (1, K, width), of no context
    weight: float
    annealed: bool

    def mix(self, pairs: torch.Tensor, start: torch.Tensor | int, length: int) -> torch.Tensor:
        """(2 rows, S, 2, D) -> (rows, S, 2, D): pairs of positions from `start` on, of `length` in all."""
        conditional, unconditional = pairs.chunk(2)
        positions = torch.arange(1, 1 + pairs.shape[1], device=pairs.device, dtype=pairs.dtype) + start
        growth = (positions / length if self.annealed else torch.ones_like(positions))[:, None, None]
        return conditional + self.weight * growth * (conditional - unconditional)


def to_data(
    z: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    unconditional_term: torch.Tensor | None = None,
    guidance: float = 0.0,
    annealed: bool = False,
    tolerance: float | None = None,
) -> Tensors:
    """(rows, T, D) -> data (rows, T, D) and log-det (rows).

    Token by token, or with a tolerance by Jacobi iteration: see `_iterated`.
    """
    leaning = None if unconditional_term is None else Guidance(unconditional_term, guidance, annealed)
    x, log_det, _ = _blocks(z, context_term, parameters, settings, leaning, tolerance)
    return x, log_det


def to_data_with_score(
    z: torch.Tensor, context_term: torch.Tensor, parameters: CausalParameters, settings: Settings
) -> Tensors:
    """(rows, T, D) -> data, its log-det (rows), and grad_x log p(x) (rows, T, D), block by block in one sweep.

    Once a block's tokens are known, the score of N(0, I) takes the same block's derivative, over all tokens at once.
    """
    x, log_det, results = _blocks(z, context_term, parameters, settings)
    return x, log_det, carried_score(z, results, context_term, parameters, settings)


def carried_score(
    z: torch.Tensor,
    results: Sequence[torch.Tensor],
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
) -> torch.Tensor:
    """grad_x log p(x), (rows, T, D), from noise and each block's result on the way to data."""
    score, ones = -z, z.new_ones(z.shape[0])
    for k, block in reversed(list(enumerate(parameters.blocks()))):
        score, _ = block_backward(score, ones, results[k], context_term, block, k, settings, False)
    return score


def _blocks(
    z: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    guidance: Guidance | None = None,
    tolerance: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Data, log-det, and each block's result, (rows, T, D) in the data's order."""
    results, log_det, z = [], z.new_zeros(z.shape[0]), z.contiguous()
    for k, block in reversed(list(enumerate(parameters.blocks()))):
        noise, term = in_order(z, k), _terms(context_term, guidance, k, z.shape[0])
        if tolerance is None:
            seen, log_dets = _token_by_token(noise, term, block, k, settings, guidance)
        else:
            seen, log_dets = _iterated(noise, term, block, k, settings, guidance, tolerance)
        z, log_det = in_order(seen, k), log_det - log_dets.sum((1, 2))
        results.append(z)
    return z, log_det, results[::-1]


def _terms(context_term: torch.Tensor, guidance: Guidance | None, k: int, rows: int) -> torch.Tensor:
    """Block k's term of each row, (rows, 1, width); with guidance, (2 rows, 1, width)."""
    term = term_of(context_term, k, rows)
    return term if guidance is None else torch.cat([term, term_of(guidance.term, k, rows)])


def _token_by_token(
    noise: torch.Tensor,
    term: torch.Tensor,
    block: CausalParameters,
    k: int,
    settings: Settings,
    guidance: Guidance | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise in the block's order (rows, T, D) -> tokens in that order, and log-dets of their maps to noise.

    Keys and values of earlier positions are kept, so that a position costs the same wherever it is.
    """
    s, (rows, tokens, _) = settings, noise.shape
    length, copies = tokens - 1 + s.prefix, 1 if guidance is None else 2
    places = positions(block, tokens, k)
    loop: Callable[..., tuple[Tensors, Tensors]] = _in_turn
    if scans():
        # What `scan` is not handed as an argument may share no memory, as a frozen flow's weights do.
        loop, term, block = scan, term.clone(), CausalParameters(*(each.clone() for each in block))

    def step(carry: Tensors, given: Tensors) -> tuple[Tensors, Tensors]:
        """One position: the token before it, and each layer's keys and values -> its token and log-dets (rows, D)."""
        (token, *kept), (position, place, moving) = carry, given
        hidden = embed_tokens(token[:, None].repeat(copies, 1, 1), place[None], term, block, s)
        if s.prefix:
            hidden = torch.where(position == 0, term, hidden)
        for i, p in enumerate(LayerParameters.of(block)):
            cache = slice(2 * i, 2 * i + 2)
            hidden, saved = layer(hidden, p, s.heads, s.norm_eps, s.compute_dtype, Cache(*kept[cache]), position)
            kept[cache] = saved.keys, saved.values
        pairs = output(hidden, block)
        pairs = pairs if guidance is None else guidance.mix(pairs, position, length)
        affine = AffineMap.of(pairs[:, 0].unbind(1), s.scale_bound)
        token = affine.inverse(moving)
        # Of one layout at every step.
        carried = token.clone(memory_format=torch.contiguous_format)
        return (carried, *kept), (token, affine.log_det())

    head = (copies * rows, s.heads, length, block.position.shape[-1] // s.heads)
    caches = (noise.new_zeros(head) for _ in range(2 * len(block.qkv_bias)))
    # With a prefix the first position reads no token, whatever stands here.
    begin = noise[:, 0].clone(memory_format=torch.contiguous_format), *caches
    read = torch.cat([places[:1], places[:-1]]) if s.prefix else places[:-1]
    first = 1 - s.prefix
    given = torch.arange(length, device=noise.device), read, noise[:, first:].movedim(1, 0)
    _, found = loop(step, begin, given)
    moved, log_dets = (each.movedim(0, 1) for each in found)
    fixed = noise[:, :first]
    return torch.cat([fixed, moved], 1), torch.cat([torch.zeros_like(fixed), log_dets], 1)


def _in_turn(
    step: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]], carry: Tensors, given: Tensors
) -> tuple[Tensors, Tensors]:
    """Loop over positions; PyTorch's `scan`, with these arguments, is one step of an exported program instead."""
    results = []
    for each in zip(*given, strict=True):
        carry, result = step(carry, each)
        results.append(result)
    return carry, tuple(map(torch.stack, zip(*results, strict=True)))


def _iterated(
    noise: torch.Tensor,
    term: torch.Tensor,
    block: CausalParameters,
    k: int,
    settings: Settings,
    guidance: Guidance | None,
    tolerance: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_token_by_token` by Jacobi iteration: all tokens at once from the last guess, until all rows' stay in tolerance.

    After i iterations the first i tokens that move are exact, so that there are at most as many iterations as such
    tokens. A guess that is not finite would spoil even the tokens before it (0 times NaN in a masked attention): then
    the block goes token by token.
    """
    s, first = settings, 1 - settings.prefix
    seen, log_dets, moving = noise.clone(), torch.zeros_like(noise), noise[:, first:]
    for _ in range(moving.shape[1]):
        pairs, _ = transformer(embed(seen if guidance is None else seen.repeat(2, 1, 1), term, block, k, s), block, s)
        pairs = pairs if guidance is None else guidance.mix(pairs, 0, moving.shape[1])
        affine = AffineMap.of(pairs.unbind(2), s.scale_bound)
        log_dets[:, first:] = affine.log_det()
        before, seen = seen, torch.cat([noise[:, :first], affine.inverse(moving)], 1)
        if not torch.isfinite(seen).all():
            return _token_by_token(noise, term, block, k, s, guidance)
        change, largest = ((seen - before).abs().flatten(1), seen.abs().flatten(1))
        if (change.amax(1) <= tolerance * largest.amax(1)).all():
            break
    return seen, log_dets
