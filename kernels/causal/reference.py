r"""The causal flow: its definition. K blocks, each a causal transformer over tokens and a causal affine coupling.

Data to noise, block k: a transformer reads the tokens in the block's order, and what it says at one position moves the
token at the next: :math:`z_t = (x_t - \mathrm{shift}_t) \, e^{-\mathrm{log\_scale}_t}`, all tokens at once. Noise to
data, blocks in reverse, each token needs the ones before it. Odd blocks see the tokens from the last to the first.

The context comes in one of two ways: added to every token, the published form for class embeddings, where the first
token of a block stays as it is; or as a *prefix*, a position before the first token, which then moves as well.

The log-determinant is the sum over tokens and features; the published code takes the mean.

Reference: Zhai et al., "Normalizing Flows are Capable Generative Models", 2024, https://arxiv.org/abs/2412.06329.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import linear, pad

from nfkern.kernels.affine.reference import causal_affine, causal_affine_backward
from nfkern.kernels.causal.parameters import CausalParameters, LayerParameters
from nfkern.kernels.causal.transformer import Kept, Saved, layer, layer_backward

Tensors = tuple[torch.Tensor, ...]


class Settings(NamedTuple):
    """Settings of the maps."""

    heads: int
    prefix: bool
    norm_eps: float
    scale_bound: float | None
    compute_dtype: torch.dtype | None


class BlockGrads(NamedTuple):
    """Gradients of a block's own arguments."""

    term: torch.Tensor  # (groups, width)
    parameters: CausalParameters


def to_latent(
    x: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    keep_hidden: bool = False,
) -> Tensors:
    """(rows, T, D) -> noise (rows, T, D), log-det (rows), each block's input (K, rows, T, D).

    The last is what the derivative may take instead of multiplying again: every layer's `Kept.flat`, (K, layers, ...);
    empty without `keep_hidden`.
    """
    inputs, kept, log_det, x = [], [], x.new_zeros(x.shape[0]), x.contiguous()
    for k, block in enumerate(parameters.blocks()):
        inputs.append(x)
        hidden, saved = embed(in_order(x, k), term_of(context_term, k, x.shape[0]), block, k, settings), list[Saved]()
        pairs, _ = transformer(hidden, block, settings, saved if keep_hidden else None)
        kept += [torch.stack([each.kept.flat() for each in saved])] if keep_hidden else []
        x, log_det = causal_affine(x, pairs, log_det, flipped(k), settings.scale_bound)
    return x, log_det, torch.stack(inputs), torch.stack(kept) if keep_hidden else x.new_empty(0)


def to_latent_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    inputs: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    parameter_grads: bool,
    kept: torch.Tensor | None = None,
) -> Tensors:
    """Gradients of x, and with `parameter_grads` of the context term and of every parameter.

    `kept` is what the forward pass kept, or None.
    """
    collected = list[BlockGrads]()
    for k, block in reversed(list(enumerate(parameters.blocks()))):
        grad, found = block_backward(
            grad,
            grad_log_det,
            inputs[k],
            context_term,
            block,
            k,
            settings,
            parameter_grads,
            None if kept is None else kept[k],
        )
        collected += [] if found is None else [found]
    collected.reverse()
    if not collected:
        return (grad, grad.new_empty(0), *(grad.new_empty(0) for _ in CausalParameters._fields))
    stacked = (torch.stack(grads) for grads in zip(*(found.parameters for found in collected), strict=True))
    return (grad, torch.stack([found.term for found in collected], 1), *stacked)


def block_backward(
    grad: torch.Tensor,
    grad_log_det: torch.Tensor,
    x: torch.Tensor,
    context_term: torch.Tensor,
    block: CausalParameters,
    k: int,
    settings: Settings,
    parameter_grads: bool,
    kept: torch.Tensor | None = None,
) -> tuple[torch.Tensor, BlockGrads | None]:
    """Gradients of block k's input x (rows, T, D) and of its arguments; what was not kept is computed again."""
    rows, s = x.shape[0], settings
    seen = in_order(x, k)
    hidden, saved = embed(seen, term_of(context_term, k, rows), block, k, s), list[Saved]()
    pairs, hidden = transformer(hidden, block, s, saved, kept)
    grad_x, grad_pairs = causal_affine_backward(grad, grad_log_det, x, pairs, flipped(k), s.scale_bound)
    by_output, layers = grad_pairs.flatten(2), list[LayerParameters]()
    grad_hidden = by_output @ block.output_weight.flatten(0, 1)
    for each, p in zip(reversed(saved), reversed(LayerParameters.of(block)), strict=True):
        grad_hidden, found = layer_backward(grad_hidden, each, p, s.compute_dtype, parameter_grads)
        layers += [] if found is None else [found]
    grad_tokens, read = grad_hidden[:, s.prefix :], seen[:, :-1]
    grad_x = grad_x + in_order(pad(grad_tokens @ block.input_weight, (0, 0, 0, 1)), k)
    if not parameter_grads:
        return grad_x, None
    grad_position = torch.zeros_like(block.position)
    grad_position[: x.shape[1]] = in_order(pad(grad_tokens, (0, 0, 0, 1)), k).sum(0)
    groups, by_row = context_term.shape[0], grad_hidden[:, 0] if s.prefix else grad_hidden.sum(1)
    grad_term = by_row.unflatten(0, (groups, rows // max(groups, 1))).sum(1)
    stacked = LayerParameters(*(torch.stack(grads) for grads in zip(*reversed(layers), strict=True)))
    parameters = CausalParameters(
        input_weight=grad_tokens.flatten(0, 1).mT @ read.flatten(0, 1),
        position=grad_position,
        **stacked._asdict(),
        output_weight=(by_output.flatten(0, 1).mT @ hidden.flatten(0, 1)).view_as(block.output_weight),
        output_bias=grad_pairs.sum((0, 1)),
    )
    return grad_x, BlockGrads(grad_term, parameters)


def flipped(k: int) -> bool:
    """True if block k sees the tokens from the last to the first."""
    return k % 2 == 1


def in_order(x: torch.Tensor, k: int) -> torch.Tensor:
    """Tokens (rows, T, ...) from the data's order to that of block k, or back."""
    return x.flip(1) if flipped(k) else x


def term_of(context_term: torch.Tensor, k: int, rows: int) -> torch.Tensor:
    """(groups, K, width) -> block k's of each row, (rows, 1, width); row r sees group r // (rows / groups)."""
    groups, _, width = context_term.shape
    return context_term[:, k, None].expand(groups, rows // max(groups, 1), width).reshape(rows, 1, width)


def embed(seen: torch.Tensor, term: torch.Tensor, block: CausalParameters, k: int, settings: Settings) -> torch.Tensor:
    """Tokens in the block's order (rows, T, D) -> the transformer's input (rows, S, width).

    S is T with a prefix, T - 1 without: nobody reads the last token.
    """
    places = positions(block, seen.shape[1], k)
    hidden = embed_tokens(seen[:, :-1], places[:-1], term, block, settings)
    return torch.cat([term, hidden], 1) if settings.prefix else hidden


def positions(block: CausalParameters, tokens: int, k: int) -> torch.Tensor:
    """Position embeddings of the tokens in the block's order, (T, width)."""
    return in_order(block.position[None, :tokens], k)[0]


def embed_tokens(
    read: torch.Tensor, places: torch.Tensor, term: torch.Tensor, block: CausalParameters, settings: Settings
) -> torch.Tensor:
    """Some tokens (rows, n, D) and their positions (n, width) -> (rows, n, width)."""
    hidden = linear(read, block.input_weight) + places
    return hidden if settings.prefix else hidden + term


def transformer(
    hidden: torch.Tensor,
    block: CausalParameters,
    settings: Settings,
    saved: list[Saved] | None = None,
    kept: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, S, width) -> the pairs (rows, S, 2, D), and the last layer's result (rows, S, width)."""
    s = settings
    for i, p in enumerate(LayerParameters.of(block)):
        before = None if kept is None else Kept.of(kept[i], len(hidden), hidden.shape[-1], len(p.up_bias))
        hidden, found = layer(hidden, p, s.heads, s.norm_eps, s.compute_dtype, kept=before)
        if saved is not None:
            saved.append(found)
    return output(hidden, block), hidden


def output(hidden: torch.Tensor, block: CausalParameters) -> torch.Tensor:
    """(rows, S, width) -> pairs (rows, S, 2, D)."""
    flat = linear(hidden, block.output_weight.flatten(0, 1), block.output_bias.flatten())
    pairs: torch.Tensor = flat.unflatten(-1, block.output_bias.shape)
    return pairs
