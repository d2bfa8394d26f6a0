"""The paper's flow as a user would write it in eager PyTorch: a module per block, a loop over blocks.

The matrices are composed at every call, the inverse by triangular solves; log_scale and shift are separate networks;
the context is concatenated to every first layer's input. Its derivatives are autograd's. In float64 it is also the
reference of the correctness gate: it shares no line with nfkern's flow.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from nfkern import CouplingFlow
from nfkern.bench.core.declarations import Implementation
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem
from nfkern.bench.problems.training import AdamWStep

_LAYERS = ("input", "norm1", "hidden", "norm2", "output")


class Mixing(nn.Module):
    """Multiplication by an invertible matrix, `x @ P L (U + diag s)`."""

    permutation: torch.Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        permutation, lower, upper = torch.linalg.lu(nn.init.orthogonal_(torch.empty(features, features)))
        self.register_buffer("permutation", permutation)
        self.lower = nn.Parameter(torch.tril(lower, -1))
        self.upper = nn.Parameter(torch.triu(upper, 1))
        self.scale = nn.Parameter(torch.diagonal(upper).clone())

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

    def lu_gradient(self) -> torch.Tensor:
        """Gradient of the packed factors, (D, D)."""
        lower, upper, scale = self.lower.grad, self.upper.grad, self.scale.grad
        assert lower is not None
        assert upper is not None
        assert scale is not None
        return torch.tril(lower, -1) + torch.triu(upper, 1) + torch.diag(scale)


class Network(nn.Module):
    """Linear, LeakyReLU, LayerNorm, twice, then a linear layer that starts at zero."""

    def __init__(self, sizes: tuple[int, int, int, int], norm_eps: float) -> None:
        super().__init__()
        first, second, third, last = sizes
        self.input = nn.Linear(first, second)
        self.norm1 = nn.LayerNorm(second, eps=norm_eps)
        self.hidden = nn.Linear(second, third)
        self.norm2 = nn.LayerNorm(third, eps=norm_eps)
        self.output = nn.Linear(third, last)
        self.activation = nn.LeakyReLU(0.01)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, inputs) -> (batch, outputs)."""
        x = self.norm1(self.activation(self.input(x)))
        x = self.norm2(self.activation(self.hidden(x)))
        output: torch.Tensor = self.output(x)
        return output


class Block(nn.Module):
    """Mixing, then a conditional affine map of the last floor(D/2) features given the others."""

    def __init__(self, features: int, context_features: int, hidden: tuple[int, int], norm_eps: float) -> None:
        super().__init__()
        self.kept = (features + 1) // 2
        sizes = (self.kept + context_features, *hidden, features - self.kept)
        self.mixing = Mixing(features)
        self.log_scale = Network(sizes, norm_eps)
        self.shift = Network(sizes, norm_eps)

    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, D), (batch, C) -> (batch, D) and the log-determinant, (batch,)."""
        x, log_det = self.mixing.to_latent(x)
        kept, transformed = x[:, : self.kept], x[:, self.kept :]
        inputs = torch.cat([kept, context], dim=1)
        log_scale = self.log_scale(inputs)
        transformed = (transformed - self.shift(inputs)) * torch.exp(-log_scale)
        return torch.cat([kept, transformed], dim=1), log_det - log_scale.sum(1)

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `to_latent`."""
        kept, transformed = z[:, : self.kept], z[:, self.kept :]
        inputs = torch.cat([kept, context], dim=1)
        log_scale = self.log_scale(inputs)
        transformed = transformed * torch.exp(log_scale) + self.shift(inputs)
        x, log_det = self.mixing.to_data(torch.cat([kept, transformed], dim=1))
        return x, log_det + log_scale.sum(1)


class EagerFlow(nn.Module):
    """Blocks in a loop; arguments as those of `nfkern.CouplingFlow`."""

    def __init__(
        self,
        features: int,
        context_features: int,
        *,
        blocks: int = 6,
        hidden: tuple[int, int] = (256, 256),
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.features = features
        self.blocks = [Block(features, context_features, hidden, norm_eps) for _ in range(blocks)]
        # The list keeps the blocks' type, the module list their parameters.
        self.registered = nn.ModuleList(self.blocks)

    @classmethod
    def like(cls, flow: CouplingFlow, dtype: torch.dtype = torch.float32) -> "EagerFlow":
        """The same function as `flow`, on its device."""
        eager = cls(
            flow.features, flow.context_features, blocks=flow.blocks, hidden=flow.hidden, norm_eps=flow.norm_eps
        )
        eager.to(flow.input_bias.device, dtype).load_from(flow)
        return eager

    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, D), (batch, C) -> noise (batch, D) and the log-determinant (batch,)."""
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
        """(batch, D), (batch, C) -> nats, (batch,)."""
        z, log_det = self.to_latent(x, context)
        return log_det - 0.5 * (z.square().sum(1) + self.features * math.log(2 * math.pi))

    @torch.no_grad()
    def load_from(self, flow: CouplingFlow) -> None:
        """Copy the weights of an nfkern flow of the same shape."""
        for k, block in enumerate(self.blocks):
            lu, order = flow.mixing_lu[k], flow.permutation[k]
            block.mixing.lower.copy_(torch.tril(lu, -1))
            block.mixing.upper.copy_(torch.triu(lu, 1))
            block.mixing.scale.copy_(torch.diagonal(lu))
            block.mixing.permutation.zero_()[torch.arange(len(order)), order] = 1
            for pair, network in enumerate((block.log_scale, block.shift)):
                for name in _LAYERS:
                    layer = getattr(network, name)
                    weight = getattr(flow, f"{name}_weight")[k, pair]
                    if name == "input" and flow.context_weight is not None:
                        weight = torch.cat([weight, flow.context_weight[k, pair]], dim=1)
                    layer.weight.copy_(weight)
                    layer.bias.copy_(getattr(flow, f"{name}_bias")[k, pair])

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

    def gradients(self) -> dict[str, torch.Tensor]:
        """The parameters' gradients under nfkern's names and in its shapes."""
        found = {"mixing_lu": torch.stack([block.mixing.lu_gradient() for block in self.blocks])}
        for name in _LAYERS:
            for part in ("weight", "bias"):
                pairs = [
                    [getattr(getattr(net, name), part).grad for net in (b.log_scale, b.shift)] for b in self.blocks
                ]
                found[f"{name}_{part}"] = torch.stack([torch.stack(pair) for pair in pairs])
        kept = (self.features + 1) // 2
        found["context_weight"] = found["input_weight"][..., kept:]
        found["input_weight"] = found["input_weight"][..., :kept]
        return found


def log_prob(problem: FlowProblem, dtype: torch.dtype = torch.float32) -> Implementation:
    """Through the density direction."""
    return Implementation(EagerFlow.like(problem.flow, dtype).log_prob)


def inverse(problem: FlowProblem, dtype: torch.dtype = torch.float32) -> Implementation:
    """Through the sampling direction."""
    return Implementation(EagerFlow.like(problem.flow, dtype).to_data)


def denoised_action(problem: FlowProblem, dtype: torch.dtype = torch.float32) -> Implementation:
    """Inverse, then density, then autograd."""
    return Implementation(denoised(EagerFlow.like(problem.flow, dtype)))


def denoised(flow: EagerFlow) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The function (noise, context) -> denoised action."""
    flow.requires_grad_(False)

    def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = flow.to_data(noise, context)[0]
        with torch.enable_grad():
            x = x.requires_grad_()
            (score,) = torch.autograd.grad(flow.log_prob(x, context).sum(), x)
        return x.detach() + SIGMA**2 * score

    return act


def training_step(problem: FlowProblem, dtype: torch.dtype = torch.float32) -> Implementation:
    """Forward, autograd's backward, torch.optim.AdamW."""
    flow = EagerFlow.like(problem.flow, dtype)
    step = AdamWStep(flow.parameters(), lambda x, context: -flow.log_prob(x, context).mean())
    return Implementation(step, flow.gradients)


BUILDERS: Mapping[str, Callable[..., Implementation]] = {
    "log_prob": log_prob,
    "inverse": inverse,
    "denoised_action": denoised_action,
    "training_step": training_step,
}
