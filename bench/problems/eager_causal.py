"""The causal flow as a user would write it in eager PyTorch: a module per block and layer, keys and values cached.

Attention is `scaled_dot_product_attention`; caches are allocated once per block. Its derivatives are autograd's. In
float64 it is also the reference of the correctness gate: it shares no line with nfkern's flow.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from nfkern import CausalFlow
from nfkern.bench.core.declarations import Implementation
from nfkern.bench.problems.causal_problem import CausalProblem
from nfkern.bench.problems.training import AdamWStep

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
    """A causal transformer over tokens, whose output at one token moves the next."""

    def __init__(self, flow: CausalFlow, flipped: bool) -> None:
        super().__init__()
        c = flow.config
        self.flipped, self.heads = flipped, c["heads"]
        self.input = nn.Linear(c["features"], c["width"])
        self.context = nn.Linear(c["context_features"], c["width"], bias=False)
        self.position = nn.Parameter(torch.empty(c["tokens"], c["width"]))
        self.layers = nn.ModuleList(
            Layer(c["width"], c["heads"], c["width"] * c["expansion"], c["norm_eps"]) for _ in range(c["layers"])
        )
        self.output = nn.Linear(c["width"], 2 * c["features"])

    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, T, D), (batch, C) -> (batch, T, D) and the log-determinant, (batch,)."""
        x, position = (x.flip(1), self.position.flip(0)) if self.flipped else (x, self.position)
        # The last token moves no other.
        hidden = self.input(x[:, :-1]) + position[:-1] + self.context(context)[:, None]
        for layer in self.layers:
            hidden = layer(hidden)
        log_scale, shift = self.output(hidden).chunk(2, dim=-1)
        z = torch.cat([x[:, :1], (x[:, 1:] - shift) * torch.exp(-log_scale)], dim=1)
        return z.flip(1) if self.flipped else z, -log_scale.sum((1, 2))

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `to_latent`, token by token."""
        z, position = (z.flip(1), self.position.flip(0)) if self.flipped else (z, self.position)
        batch, tokens, _ = z.shape
        width = position.shape[1]
        shape = (batch, self.heads, tokens - 1, width // self.heads)
        caches = [(z.new_zeros(shape), z.new_zeros(shape)) for _ in self.layers]
        added, known, log_det = self.context(context), [z[:, 0]], torch.zeros(batch, dtype=z.dtype, device=z.device)
        for i in range(tokens - 1):
            hidden = (self.input(known[i]) + position[i] + added)[:, None]
            for layer, cache in zip(self.layers, caches, strict=True):
                hidden = layer(hidden, cache, i)
            log_scale, shift = self.output(hidden[:, 0]).chunk(2, dim=-1)
            known.append(z[:, i + 1] * torch.exp(log_scale) + shift)
            log_det = log_det + log_scale.sum(1)
        x = torch.stack(known, dim=1)
        return x.flip(1) if self.flipped else x, log_det


class EagerCausalFlow(nn.Module):
    """Blocks in a loop, of a flow that adds its context to the tokens."""

    def __init__(self, flow: CausalFlow) -> None:
        super().__init__()
        self.shapes = {name: parameter.shape for name, parameter in flow.named_parameters()}
        self.blocks = [Block(flow, k % 2 == 1) for k in range(flow.config["blocks"])]
        # The list keeps the blocks' type, the module list their parameters.
        self.registered = nn.ModuleList(self.blocks)

    @classmethod
    def like(cls, flow: CausalFlow, dtype: torch.dtype = torch.float32) -> "EagerCausalFlow":
        """The same function as `flow`, on its device."""
        eager = cls(flow).to(flow.input_bias.device, dtype)
        with torch.no_grad():
            for name, parameter in eager.named_parameters():
                parameter.copy_(_matching(flow, name).view_as(parameter))
        return eager

    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, T, D), (batch, C) -> noise (batch, T, D) and the log-determinant (batch,)."""
        log_det = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for block in self.blocks:
            x, change = block.to_latent(x, context)
            log_det = log_det + change
        return x, log_det

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `to_latent`."""
        log_det = torch.zeros(len(z), dtype=z.dtype, device=z.device)
        for block in reversed(self.blocks):
            z, change = block.to_data(z, context)
            log_det = log_det + change
        return z, log_det

    def log_prob(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(batch, T, D), (batch, C) -> nats, (batch,)."""
        z, log_det = self.to_latent(x, context)
        return log_det - 0.5 * (z.square() + math.log(2 * math.pi)).sum((1, 2))

    def gradients(self) -> dict[str, torch.Tensor]:
        """The parameters' gradients under nfkern's names and in its shapes."""
        found: dict[str, list[torch.Tensor]] = {}
        for name, parameter in self.named_parameters():
            assert parameter.grad is not None
            found.setdefault(_ours(name), []).append(parameter.grad)
        return {name: torch.stack(gradients).view(self.shapes[name]) for name, gradients in found.items()}


def _ours(name: str) -> str:
    """`registered.0.layers.1.qkv.weight` -> `qkv_weight`."""
    last = [part for part in name.split(".") if not part.isdigit() and part not in ("registered", "layers")]
    return "_".join(last)


def _matching(flow: CausalFlow, name: str) -> torch.Tensor:
    """The flow's numbers for a parameter of the eager one."""
    index = tuple(int(part) for part in name.split(".") if part.isdigit())
    found: torch.Tensor = getattr(flow, _ours(name))[index]
    return found


def log_prob(problem: CausalProblem, dtype: torch.dtype = torch.float32) -> Implementation:
    """Through the density direction, all tokens at once."""
    return Implementation(EagerCausalFlow.like(problem.flow, dtype).log_prob)


def inverse(problem: CausalProblem, dtype: torch.dtype = torch.float32) -> Implementation:
    """Through the sampling direction, token by token."""
    return Implementation(EagerCausalFlow.like(problem.flow, dtype).to_data)


def training_step(problem: CausalProblem, dtype: torch.dtype = torch.float32) -> Implementation:
    """Forward, autograd's backward, torch.optim.AdamW."""
    flow = EagerCausalFlow.like(problem.flow, dtype)
    step = AdamWStep(flow.parameters(), lambda x, context: -flow.log_prob(x, context).mean())
    return Implementation(step, flow.gradients)


BUILDERS: Mapping[str, Callable[..., Implementation]] = {
    "causal_log_prob": log_prob,
    "causal_inverse": inverse,
    "causal_training_step": training_step,
}
