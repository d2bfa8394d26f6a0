"""The causal flow as a user would write it in eager PyTorch: a module per block and layer, keys and values cached.

Attention is `scaled_dot_product_attention`; caches are allocated once per block. What `eager` says holds here, too.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from nfkern import CausalFlow
from nfkern.bench.problems.eager import NaiveFlow, bounded

Cache = tuple[torch.Tensor, torch.Tensor]


class Layer(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=norm_eps)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor, cache: Cache | None = None, position: int = 0) -> torch.Tensor:
        """(batch, S, width) -> the same; with a cache, x is the one position there."""
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0][:, :, position : position + 1], cache[1][:, :, position : position + 1] = keys, values
            keys, values = (each[:, :, : position + 1] for each in cache)
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=cache is None)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, length, width))
        result: torch.Tensor = x + self.down(gelu(self.up(self.mlp_norm(x))))
        return result


class Block(nn.Module):
    """A causal transformer whose output at one token moves the next; a context is added to all tokens, or is one."""

    def __init__(self, flow: CausalFlow, flipped: bool) -> None:
        super().__init__()
        c = flow.config
        self.flipped, self.heads, self.scale_bound = flipped, c["heads"], c["scale_bound"]
        self.prefix = c["context_mode"] == "prefix"
        self.input_weight = nn.Parameter(torch.empty(c["width"], c["features"]))
        self.input_bias = nn.Parameter(torch.empty(c["width"]))
        if c["context_features"]:
            self.context_weight = nn.Parameter(torch.empty(c["width"], c["context_features"]))
        self.position = nn.Parameter(torch.empty(c["tokens"], c["width"]))
        self.layers = nn.ModuleList(
            Layer(c["width"], c["heads"], c["width"] * c["expansion"], c["norm_eps"]) for _ in range(c["layers"])
        )
        self.output = nn.Linear(c["width"], 2 * c["features"])

    def _places(self, tokens: int) -> torch.Tensor:
        """Positions of the tokens in the block's order, (T, width)."""
        return self.position[:tokens].flip(0) if self.flipped else self.position[:tokens]

    def _term(self, context: torch.Tensor) -> torch.Tensor:
        """The context's share of every token, or its own token, (batch, width)."""
        if not context.shape[1]:
            return self.input_bias.expand(len(context), -1)
        return linear(context, self.context_weight, self.input_bias)

    def _pair(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_scale, shift = self.output(hidden).chunk(2, dim=-1)
        return bounded(log_scale, self.scale_bound), shift

    def pairs(self, x: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """log_scale and shift (batch, moved tokens, D) by the tokens before each; x (batch, T, D) is in block order."""
        # The last token moves no other.
        hidden = linear(x[:, :-1], self.input_weight) + self._places(x.shape[1])[:-1]
        term = self._term(context)[:, None]
        hidden = torch.cat([term, hidden], dim=1) if self.prefix else hidden + term
        for layer in self.layers:
            hidden = layer(hidden)
        return self._pair(hidden)

    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, T, D), (batch, C) -> (batch, T, D) and the log-determinant, (batch,)."""
        x = x.flip(1) if self.flipped else x
        log_scale, shift = self.pairs(x, context)
        first, moved = x.split([x.shape[1] - shift.shape[1], shift.shape[1]], 1)
        z = torch.cat([first, (moved - shift) * torch.exp(-log_scale)], dim=1)
        return z.flip(1) if self.flipped else z, -log_scale.sum((1, 2))

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `to_latent`, token by token."""
        z = z.flip(1) if self.flipped else z
        batch, tokens, _ = z.shape
        places, term, width = self._places(tokens), self._term(context), len(self.input_bias)
        known = [] if self.prefix else [z[:, 0]]
        first = len(known)
        shape = (batch, self.heads, tokens - first, width // self.heads)
        caches = [(z.new_zeros(shape), z.new_zeros(shape)) for _ in self.layers]
        log_det = torch.zeros(batch, dtype=z.dtype, device=z.device)
        for i in range(tokens - first):
            hidden = term
            if known:
                hidden = linear(known[-1], self.input_weight) + places[len(known) - 1]
                hidden = hidden if self.prefix else hidden + term
            hidden = hidden[:, None]
            for layer, cache in zip(self.layers, caches, strict=True):
                hidden = layer(hidden, cache, i)
            log_scale, shift = self._pair(hidden[:, 0])
            known.append(z[:, i + first] * torch.exp(log_scale) + shift)
            log_det = log_det + log_scale.sum(1)
        x = torch.stack(known, dim=1)
        return x.flip(1) if self.flipped else x, log_det


class EagerCausalFlow(NaiveFlow):
    """A causal flow, block by block; every other one reads the tokens backwards."""

    def __init__(self, flow: CausalFlow) -> None:
        super().__init__(flow, (Block(flow, k % 2 == 1) for k in range(flow.config["blocks"])))

    def weights(self, stacked: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`blocks.0.layers.1.qkv.weight` is `qkv_weight[0, 1]`."""
        found = {}
        for name, parameter in self.named_parameters():
            words = [word for word in name.split(".") if word not in ("blocks", "layers")]
            index = tuple(int(word) for word in words if word.isdigit())
            tensor = stacked["_".join(word for word in words if not word.isdigit())]
            found[name] = tensor[index].reshape(parameter.shape)
        return found
