"""The paper's flow as a user would write it in eager PyTorch: a module per block, a loop over blocks.

The matrices are composed at every call, the inverse by triangular solves; log_scale and shift are separate networks;
the context is concatenated to every first layer's input; derivatives are autograd's. In float64 it is the reference of
the correctness gate, and the oracle of the tests: it shares no line with nfkern's flow.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import nn

from nfkern import CouplingFlow
from nfkern.bench.problems.calls import Model

_LAYERS = ("input", "norm1", "hidden", "norm2", "output")


def stacked(flow: Any) -> dict[str, torch.Tensor]:
    """Return an nfkern flow's parameters by name, and its mixing's factors even where they are fixed."""
    fixed = {"mixing_lu": flow.mixing_lu} if isinstance(flow, CouplingFlow) else {}
    return fixed | dict(flow.named_parameters())


def bounded(log_scale: torch.Tensor, bound: float | None) -> torch.Tensor:
    """Return log-scales within +-bound."""
    return log_scale if bound is None else bound * torch.tanh(log_scale / bound)


class NaiveFlow(Model):
    """Blocks in a loop, within a flow's bounds; each block maps events and contexts to events and log-determinants."""

    def __init__(self, flow: Any, blocks: Iterable[nn.Module] = ()) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(blocks)
        self.context_features, self.bounds = flow.context_features, flow.bounds
        self.inverted = getattr(flow, "inverted", False)
        self.shapes = {name: tensor.shape for name, tensor in stacked(flow).items()}

    @classmethod
    def like(cls, flow: Any, dtype: torch.dtype = torch.float32) -> Self:
        """The same function as `flow`, on its device."""
        naive = cls(flow).to(flow.input_bias.device, dtype)
        naive.load_state_dict(naive.weights(stacked(flow)))
        return naive

    def weights(self, stacked: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return parameters by their names here, as parts of nfkern's tensors, to which their gradients flow back."""
        raise NotImplementedError

    def named(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return values of the parameters here under nfkern's names and in its shapes: the transpose of `weights`."""
        like = next(iter(values.values()))
        with torch.inference_mode(False), torch.enable_grad():
            leaves = {name: like.new_zeros(shape).requires_grad_() for name, shape in self.shapes.items()}
            weights = self.weights(leaves)
            parts = [weights[name] for name in values]
            found = torch.autograd.grad(parts, list(leaves.values()), list(values.values()))
        return dict(zip(leaves, found, strict=True))

    def gradients(self) -> dict[str, torch.Tensor]:
        """Gradients under nfkern's names and in its shapes."""
        return self.named({name: p.grad for name, p in self.named_parameters() if p.grad is not None})

    def to_latent(self, x: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, *event), (batch, C) or None for zeros -> noise (batch, *event) and the log-determinant (batch,)."""
        if self.bounds is None:
            return self._through(x, context, self.inverted)
        center, scale = self._box(x)
        x = (x - center) / scale
        z, log_det = self._through(torch.atanh(x), context, self.inverted)
        return z, log_det - (scale * (1 - x.square())).log().flatten(1).sum(1)

    def to_data(self, z: torch.Tensor, context: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `to_latent`."""
        x, log_det = self._through(z, context, not self.inverted)
        if self.bounds is None:
            return x, log_det
        x = torch.tanh(x)
        center, scale = self._box(x)
        return center + scale * x, log_det + (scale * (1 - x.square())).log().flatten(1).sum(1)

    def _box(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Center and half width of bounds."""
        low, high = torch.tensor(
            (-1.0, 1.0) if self.bounds == "tanh" else self.bounds, dtype=like.dtype, device=like.device
        )
        return (low + high) / 2, (high - low) / 2

    def _through(
        self, x: torch.Tensor, context: torch.Tensor | None, backwards: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if context is None:
            context = x.new_zeros(len(x), self.context_features)
        log_det = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for block in reversed(list(self.blocks)) if backwards else self.blocks:
            x, change = (block.to_data if backwards else block.to_latent)(x, context)
            log_det = log_det + change
        return x, log_det

    def log_prob(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, *event), (batch, C) or None for zeros -> nats, (batch,)."""
        z, log_det = self.to_latent(x, context)
        return log_det - 0.5 * (z.square().flatten(1).sum(1) + math.prod(z.shape[1:]) * math.log(2 * math.pi))


class Mixing(nn.Module):
    """Multiplication by an invertible matrix, `x @ P L (U + diag s)`."""

    permutation: torch.Tensor

    def __init__(self, order: torch.Tensor) -> None:
        super().__init__()
        size = len(order)
        self.register_buffer("permutation", torch.eye(size, device=order.device)[order], persistent=False)
        self.lower, self.upper = (nn.Parameter(torch.empty(size, size)) for _ in range(2))
        self.scale = nn.Parameter(torch.empty(size))

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        identity = torch.eye(len(self.scale), dtype=self.scale.dtype, device=self.scale.device)
        return torch.tril(self.lower, -1) + identity, torch.triu(self.upper, 1) + torch.diag(self.scale), identity

    def to_latent(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, D) -> (batch, D) and the log-determinant, ()."""
        lower, upper, _ = self._factors()
        return x @ (self.permutation @ lower @ upper), self.scale.abs().log().sum()

    def to_data(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `to_latent`."""
        lower, upper, identity = self._factors()
        lower_inverse = torch.linalg.solve_triangular(lower, identity, upper=False, unitriangular=True)
        upper_inverse = torch.linalg.solve_triangular(upper, identity, upper=True)
        return z @ (upper_inverse @ lower_inverse @ self.permutation.T), -self.scale.abs().log().sum()


class FixedMixing(nn.Module):
    """A mixing whose matrix, inverse and log-determinants are constants."""

    matrix: torch.Tensor
    inverse: torch.Tensor
    log_det: torch.Tensor
    inverse_log_det: torch.Tensor

    @torch.no_grad()
    def __init__(self, mixing: Mixing) -> None:
        super().__init__()
        identity = torch.eye(len(mixing.scale), dtype=mixing.scale.dtype, device=mixing.scale.device)
        for name, tensor in zip(("matrix", "log_det"), mixing.to_latent(identity), strict=True):
            self.register_buffer(name, tensor)
        for name, tensor in zip(("inverse", "inverse_log_det"), mixing.to_data(identity), strict=True):
            self.register_buffer(name, tensor)

    def to_latent(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Mixing.to_latent`."""
        return x @ self.matrix, self.log_det

    def to_data(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Mixing.to_data`."""
        return z @ self.inverse, self.inverse_log_det


class Network(nn.Module):
    """Linear, LeakyReLU, LayerNorm, twice, then a linear layer."""

    def __init__(self, sizes: tuple[int, int, int, int], norm_eps: float) -> None:
        super().__init__()
        first, second, third, last = sizes
        self.input = nn.Linear(first, second)
        self.norm1 = nn.LayerNorm(second, eps=norm_eps)
        self.hidden = nn.Linear(second, third)
        self.norm2 = nn.LayerNorm(third, eps=norm_eps)
        self.output = nn.Linear(third, last)
        self.activation = nn.LeakyReLU(0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, inputs) -> (batch, outputs)."""
        x = self.norm1(self.activation(self.input(x)))
        x = self.norm2(self.activation(self.hidden(x)))
        output: torch.Tensor = self.output(x)
        return output


class Block(nn.Module):
    """Mixing, then a conditional affine map of the last floor(D/2) features given the others."""

    mixing: Mixing | FixedMixing

    def __init__(self, flow: CouplingFlow, order: torch.Tensor) -> None:
        super().__init__()
        self.kept, self.scale_bound = (flow.features + 1) // 2, flow.scale_bound
        sizes = (self.kept + flow.context_features, *flow.hidden, flow.features - self.kept)
        self.mixing = Mixing(order)
        self.log_scale = Network(sizes, flow.norm_eps)
        self.shift = Network(sizes, flow.norm_eps)

    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, D), (batch, C) -> (batch, D) and the log-determinant, (batch,)."""
        x, log_det = self.mixing.to_latent(x)
        kept, transformed = x[:, : self.kept], x[:, self.kept :]
        inputs = torch.cat([kept, context], dim=1)
        log_scale = bounded(self.log_scale(inputs), self.scale_bound)
        transformed = (transformed - self.shift(inputs)) * torch.exp(-log_scale)
        return torch.cat([kept, transformed], dim=1), log_det - log_scale.sum(1)

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `to_latent`."""
        kept, transformed = z[:, : self.kept], z[:, self.kept :]
        inputs = torch.cat([kept, context], dim=1)
        log_scale = bounded(self.log_scale(inputs), self.scale_bound)
        transformed = transformed * torch.exp(log_scale) + self.shift(inputs)
        x, log_det = self.mixing.to_data(torch.cat([kept, transformed], dim=1))
        return x, log_det + log_scale.sum(1)


class EagerFlow(NaiveFlow):
    """A coupling flow, block by block."""

    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__(flow, (Block(flow, order) for order in flow.permutation))

    @classmethod
    def composed(cls, flow: CouplingFlow) -> Self:
        """With the matrices composed beforehand, as a careful user does before acting."""
        naive = cls.like(flow, torch.float64)
        for block in naive.blocks:
            block.mixing = FixedMixing(block.mixing)
        return naive.to(flow.input_bias.dtype)

    def weights(self, stacked: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The context's weights stand beside the kept features' in each first layer."""
        found: dict[str, torch.Tensor] = {}
        first = [stacked[name] for name in ("input_weight", "context_weight") if name in stacked]
        layers = {**stacked, "input_weight": torch.cat(first, -1)}
        for k, lu in enumerate(stacked["mixing_lu"]):
            found |= {
                f"blocks.{k}.mixing.lower": lu.tril(-1),
                f"blocks.{k}.mixing.upper": lu.triu(1),
                f"blocks.{k}.mixing.scale": lu.diagonal(),
            }
            for pair, network in enumerate(("log_scale", "shift")):
                for name in _LAYERS:
                    for part in ("weight", "bias"):
                        found[f"blocks.{k}.{network}.{name}.{part}"] = layers[f"{name}_{part}"][k, pair]
        return found

    @torch.no_grad()
    def kink_distance(self, function: Callable[..., Any], x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """How near each row of `function(x, context)` comes to a LeakyReLU's kink, (batch,)."""
        nearest = torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)

        def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            torch.minimum(nearest, inputs[0].abs().amin(1), out=nearest)

        hooks = [m.register_forward_pre_hook(watch) for m in self.modules() if isinstance(m, nn.LeakyReLU)]
        try:
            function(x, context)
        finally:
            for hook in hooks:
                hook.remove()
        return nearest
