"""The causal flow's launches on a GPU. Each function equals its namesake in the reference.

Density: all tokens at once, four products a layer around PyTorch's own fused attention. Sampling: for each token one
launch between the last layer and the first, and five a layer; which they are depends on shapes alone, so that a CUDA
graph can hold them all. The score takes a block's tokens from here and its derivative from the reference.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from nfkern.kernels.affine.triton_launch import causal_affine
from nfkern.kernels.causal import reference, sampling, triton_kernels
from nfkern.kernels.causal.parameters import HIDDEN, CausalParameters, LayerParameters
from nfkern.kernels.causal.reference import Settings, Tensors, flipped, in_order, term_of
from nfkern.kernels.causal.sampling import Guidance
from nfkern.kernels.coupling.triton_launch import MANY, Arithmetic, LaunchConfig
from nfkern.kernels.dispatch.triton_backend import dependent, float32_precision, launch, padded, programs

# Arithmetic -> (rows up to which it is used, configuration of a product): chunk1 is along its inputs, chunk2 along its
# outputs. Chosen by register budgets, see `nfkern bench resources`; not yet timed on a GPU.
LAUNCHES: dict[Arithmetic, tuple[tuple[int, LaunchConfig], ...]] = {
    "ieee": (
        (64, LaunchConfig(16, 128, 16, 4, 3)),
        (1024, LaunchConfig(32, 32, 32, 4)),
        (MANY, LaunchConfig(64, 32, 64, 8)),
    ),
    "tf32": (
        (64, LaunchConfig(16, 128, 16, 4, 3)),
        (1024, LaunchConfig(32, 64, 32, 4)),
        (8192, LaunchConfig(64, 32, 64, 4)),
        (MANY, LaunchConfig(128, 32, 128, 8)),
    ),
    "half": (
        (64, LaunchConfig(16, 128, 16, 4, 3)),
        (1024, LaunchConfig(32, 64, 32, 4)),
        (8192, LaunchConfig(64, 64, 64, 4)),
        (MANY, LaunchConfig(128, 64, 128, 8)),
    ),
}

HELD = 8192
"""Elements of rows that a program holds at once for their statistics: 64 registers of a thread of four warps."""

ATTENTION_HELD = 2048
"""Elements of keys, and of values, that a program holds at once."""

ATTENTION_ROWS = 65535
"""Rows of a call of PyTorch's attention: a grid axis has no more programs (pytorch issues 142228, 146704)."""

TOKEN_TILE, TOKEN_CHUNK = 16, 64
"""Rows of a program between two positions, and the part of the width that it takes at once."""


class Network(NamedTuple):
    """The parameters as the kernels take them, and arguments that all launches share."""

    parameters: CausalParameters  # contiguous, the layers' weights in the dtype of their products
    settings: Settings
    arithmetic: Arithmetic
    single: str  # `input_precision` of products in float32

    @classmethod
    def of(cls, parameters: CausalParameters, settings: Settings) -> "Network":
        """Return the network with its parameters cast and laid out once for all blocks."""
        dtype = settings.compute_dtype or torch.float32
        cast = {name: getattr(parameters, name).to(dtype) for name in HIDDEN}
        contiguous = CausalParameters._make(tensor.contiguous() for tensor in parameters._replace(**cast))
        half = dtype != torch.float32
        single = float32_precision(half)
        return cls(contiguous, settings, "half" if half else "tf32" if single == "tf32" else "ieee", single)

    def new(self, *shape: int, hidden: bool = False) -> torch.Tensor:
        """Return uninitialised memory in float32, or with `hidden` in the dtype of the layers' products."""
        like = self.parameters.qkv_weight if hidden else self.parameters.position
        return like.new_empty(shape)

    def layer(
        self, hidden: torch.Tensor, p: LayerParameters, qkv: torch.Tensor, attend: Callable[[], torch.Tensor]
    ) -> None:
        """A layer of rows `hidden` (count, width), in place.

        `qkv` (count, 3 width), which may have gaps between its rows, is written first; `attend` reads it, and gives
        (count, width).
        """
        up = self.new(hidden.shape[0], p.up_bias.shape[0], hidden=True)
        self.product(hidden, p.qkv_weight, p.qkv_bias, qkv, norm=(p.attention_norm_weight, p.attention_norm_bias))
        self.product(attend(), p.projection_weight, p.projection_bias, hidden, residual=hidden)
        self.product(hidden, p.up_weight, p.up_bias, up, norm=(p.mlp_norm_weight, p.mlp_norm_bias), gelu=True)
        self.product(up, p.down_weight, p.down_bias, hidden, residual=hidden)

    def product(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        result: torch.Tensor,
        norm: tuple[torch.Tensor, torch.Tensor] | None = None,
        residual: torch.Tensor | None = None,
        gelu: bool = False,
    ) -> None:
        """Launch `product_kernel`, whose arguments these are."""
        (count, inputs), outputs = x.shape, weight.shape[0]
        config = next(config for limit, config in LAUNCHES[self.arithmetic] if count <= limit)
        chunk2 = min(config.chunk2, padded(outputs))
        launch(
            triton_kernels.product_kernel, (programs(count, config.tile), programs(outputs, chunk2)),
            x, *(norm or (bias, bias)), weight, bias, result if residual is None else residual, result, count,
            result.stride(0) // outputs, self.settings.norm_eps, INPUTS=inputs, OUTPUTS=outputs, NORM=norm is not None,
            GELU=gelu, RESIDUAL=residual is not None, TILE=config.tile, SPAN=min(HELD // config.tile, padded(inputs)),
            CHUNK1=min(config.chunk1, padded(inputs)), CHUNK2=chunk2, PRECISION=self.single, **dependent(x.device),
            num_warps=config.warps, num_stages=config.stages,
        )  # fmt: skip


class Chain:
    """Noise to data, position by position of block by block.

    With guidance every row is there twice, with its context and then without.
    """

    def __init__(
        self, network: Network, rows: int, tokens: int, context_term: torch.Tensor, guidance: Guidance | None
    ) -> None:
        self.network, self.guidance, self.rows, self.tokens = network, guidance, rows, tokens
        self.length = tokens - 1 + network.settings.prefix
        layers, _, width = network.parameters.qkv_weight.shape[-3:]
        count = rows if guidance is None else 2 * rows
        self.term = context_term.contiguous()
        self.unconditional = self.term[0] if guidance is None else guidance.term[0].contiguous()
        self.log_det = network.parameters.position.new_zeros(rows)
        self.hidden, self.attended = network.new(count, width), network.new(count, width, hidden=True)
        # Queries lie with keys and values, where the product leaves them.
        self.caches = [network.new(count, self.length, 3 * width) for _ in range(layers)]

    def block(self, k: int, block: CausalParameters, noise: torch.Tensor) -> torch.Tensor:
        """Block k's result, (rows, T, D); its log-determinant goes to the running one."""
        result, layers = torch.empty_like(noise), LayerParameters.of(block)
        for position in range(self.length):
            self.step(k, block, position, noise, result)
            for p, cache in zip(layers, self.caches, strict=True):
                self.network.layer(self.hidden, p, cache[:, position], partial(self.attend, cache, position))
        self.step(k, block, self.length, noise, result)
        return result

    def step(self, k: int, block: CausalParameters, position: int, noise: torch.Tensor, result: torch.Tensor) -> None:
        """Move the token after the position before, and embed it for this position."""
        n, guidance, seen = self.network, self.guidance, position - self.network.settings.prefix
        growth = position / self.length if guidance is not None and guidance.annealed else 1.0
        bound, (width, features) = n.settings.scale_bound, block.input_weight.shape
        launch(
            triton_kernels.token_kernel, (programs(self.rows, TOKEN_TILE),),
            self.hidden, noise, result, self.log_det, self.term[:, k], self.unconditional[k], block.position,
            block.input_weight, block.output_weight, block.output_bias, self.rows, self.term.shape[0], self.tokens,
            self.tokens - 1 - seen if flipped(k) else seen, 1.0 if bound is None else bound,
            0.0 if guidance is None else guidance.weight * growth, BLOCKS=self.term.shape[1], WIDTH=width,
            FEATURES=features, PADDED=padded(features), PREFIX=n.settings.prefix, MOVE=position > 0,
            EMBED=position < self.length, BOUNDED=bound is not None, GUIDED=guidance is not None, TILE=TOKEN_TILE,
            CHUNK=min(TOKEN_CHUNK, padded(width)), SINGLE=n.single, **dependent(noise.device),
        )  # fmt: skip

    def attend(self, cache: torch.Tensor, position: int) -> torch.Tensor:
        """Return the attention of this position's queries, (count, width)."""
        (count, length, _), width, heads = cache.shape, self.hidden.shape[1], self.network.settings.heads
        size = padded(width // heads)
        launch(
            triton_kernels.attention_kernel, (count, heads),
            cache, self.attended, position, length, WIDTH=width, HEADS=heads, PADDED=size,
            KEYS=min(padded(length), ATTENTION_HELD // size), **dependent(cache.device),
        )  # fmt: skip
        return self.attended


def to_latent(
    x: torch.Tensor, context_term: torch.Tensor, parameters: CausalParameters, settings: Settings, *_: object
) -> Tensors:
    """Data to noise; see the reference. Nothing is kept for the derivative."""
    network, inputs, log_det, x = Network.of(parameters, settings), [], x.new_zeros(x.shape[0]), x.contiguous()
    for k, block in enumerate(network.parameters.blocks()):
        inputs.append(x)
        hidden = reference.embed(in_order(x, k), term_of(context_term, k, x.shape[0]), block, k, settings).contiguous()
        _transformer(hidden, block, network)
        x, log_det = causal_affine(x, reference.output(hidden, block), log_det, flipped(k), settings.scale_bound)
    return x, log_det, torch.stack(inputs), x.new_empty(0)


def to_data(
    z: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    unconditional_term: torch.Tensor | None = None,
    guidance: float = 0.0,
    annealed: bool = False,
    *_: object,
) -> Tensors:
    """Noise to data, token by token; see the reference."""
    leaning = None if unconditional_term is None else Guidance(unconditional_term, guidance, annealed)
    results, log_det = _results(z, context_term, parameters, settings, leaning)
    return results[0], log_det


def to_data_with_score(
    z: torch.Tensor, context_term: torch.Tensor, parameters: CausalParameters, settings: Settings
) -> Tensors:
    """Noise to data with the score; see the reference."""
    results, log_det = _results(z, context_term, parameters, settings, None)
    return results[0], log_det, sampling.carried_score(z, results, context_term, parameters, settings)


def _results(
    z: torch.Tensor,
    context_term: torch.Tensor,
    parameters: CausalParameters,
    settings: Settings,
    guidance: Guidance | None,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each block's result, (rows, T, D), and the log-determinant (rows)."""
    chain = Chain(Network.of(parameters, settings), z.shape[0], z.shape[1], context_term, guidance)
    results, z = list[torch.Tensor](), z.contiguous()
    for k, block in reversed(list(enumerate(chain.network.parameters.blocks()))):
        z = chain.block(k, block, z)
        results.append(z)
    return results[::-1], chain.log_det


def _transformer(hidden: torch.Tensor, block: CausalParameters, network: Network) -> None:
    """A block's layers of all positions (rows, S, width) at once, in place."""
    (rows, length, width), heads = hidden.shape, network.settings.heads
    flat, qkv = hidden.flatten(0, 1), network.new(rows * length, 3 * width)
    by_head = qkv.view(rows, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)

    def attend() -> torch.Tensor:
        parts = [
            scaled_dot_product_attention(part[0], part[1], part[2], is_causal=True)
            for part in by_head.split(ATTENTION_ROWS, 1)
        ]
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return attended.transpose(1, 2).reshape(flat.shape)

    for p in LayerParameters.of(block):
        network.layer(flat, p, qkv, attend)
