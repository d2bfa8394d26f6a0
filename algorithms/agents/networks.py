"""Networks of the baselines, and encoders of one's own."""

import math
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from nfkern.flows.encoder import Encoder
from nfkern.host.packages import import_from_here
from nfkern.kernels import hidden_activation

# Flax's epsilon and GELU: the published codes use them.
LAYER_NORM_EPS = 1e-6
GELU = "tanh"


def make_encoder(name: str | None, inputs: int, outputs: int, width: int) -> nn.Module:
    """Return the paper's encoder, or one of the user's.

    Args:
        name: MODULE:CLASS of a `torch.nn.Module`, which is called with (inputs, outputs); None for the paper's.
        inputs: size of a row.
        outputs: size of the representation.
        width: of the paper's.

    Returns:
        (rows, inputs) -> (rows, outputs).

    Raises:
        ValueError: there is no such class, it is no module, or its results have another shape.
    """
    if name is None:
        return Encoder(inputs, outputs, width=width)
    module, _, path = name.partition(":")
    try:
        kind = attrgetter(path)(import_from_here(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"encoder: expected MODULE:CLASS that can be imported, got {name!r} ({error})") from None
    # Nothing else that a file might name is called.
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"encoder: expected a class of torch.nn.Module, got {name!r}, {kind!r}")
    try:
        encoder = kind(inputs, outputs)
        training = encoder.training
        with torch.no_grad():
            found = tuple(encoder.eval()(torch.zeros(2, inputs)).shape)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"encoder: expected {name}({inputs}, {outputs}) to take rows of shape (2, {inputs}), got {error!r}"
        ) from error
    if found != (2, outputs):
        raise ValueError(f"encoder: expected {name} to return shape (2, {outputs}) for (2, {inputs}), got {found}")
    return encoder.train(training)


class MLP(nn.Sequential):
    """Linear layers with GELU between them, and LayerNorm after each GELU if it has one."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(*batch, in_features) -> (*batch, out_features)."""
        *products, last = (layer for layer in self if isinstance(layer, nn.Linear))
        norms = (layer for layer in self if isinstance(layer, nn.LayerNorm))
        rows = inputs.reshape(-1, inputs.shape[-1])
        for product, norm in zip_longest(products, norms):
            scale, shift = (None, None) if norm is None else (norm.weight, norm.bias)
            rows = _gelu(nn.functional.linear(rows, product.weight), product.bias, scale, shift)
        outputs: torch.Tensor = last(rows)
        return outputs.reshape(*inputs.shape[:-1], outputs.shape[-1])


def mlp(
    in_features: int, out_features: int, hidden: Sequence[int], *, layer_norm: bool = False, last_gain: float = 1.0
) -> MLP:
    """Return linear layers with GELU between them, initialised as in OGBench (Glorot uniform, zero bias).

    Args:
        in_features: size of the input.
        out_features: size of the output.
        hidden: widths of the hidden layers.
        layer_norm: follow each GELU by LayerNorm.
        last_gain: factor of the last layer's initial weights.

    Returns:
        (*batch, in_features) -> (*batch, out_features).
    """
    sizes = [in_features, *hidden, out_features]
    gains = [1.0] * len(hidden) + [last_gain]
    layers: list[nn.Module] = []
    for (size, following), gain in zip(pairwise(sizes), gains, strict=True):
        linear = nn.Linear(size, following)
        nn.init.xavier_uniform_(linear.weight, gain)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.GELU(GELU)]
        if layer_norm:
            layers.append(nn.LayerNorm(following, eps=LAYER_NORM_EPS))
    return MLP(*layers[: -2 if layer_norm else -1])


def unit_gaussian_log_prob(mean: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return the log-density (batch,), in nats, of x (batch, features) under N(mean, I)."""
    return -0.5 * ((x - mean).square().sum(1) + x.shape[1] * math.log(2 * math.pi))


class EnsembleMLP(nn.Module):
    """Several `mlp`s with LayerNorm as one stacked network: each layer is one batched product.

    Args:
        members: number of networks.
        in_features: size of the input, which all members share.
        hidden: widths of the hidden layers.
        out_features: size of a member's output; None for a single number, without an axis of its own.
    """

    def __init__(self, members: int, in_features: int, hidden: Sequence[int], out_features: int | None = None) -> None:
        super().__init__()
        self._scalar = out_features is None
        sizes = list(pairwise([in_features, *hidden, out_features or 1]))
        self.weights = nn.ParameterList(torch.empty(members, size, following) for size, following in sizes)
        self.biases = nn.ParameterList(torch.zeros(members, 1, following) for _, following in sizes)
        self.scales = nn.ParameterList(torch.ones(members, 1, width) for width in hidden)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, width) for width in hidden)
        for weight in self.weights:
            for member in weight:
                nn.init.xavier_uniform_(member)

    def forward(self, inputs: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """Return the outputs of all members.

        Args:
            inputs: (batch, in_features).
            frozen: let gradients reach the inputs alone, as an actor's loss needs it.

        Returns:
            (members, batch), or (members, batch, out_features).
        """
        weights, biases, scales, shifts = (
            [parameter.detach() if frozen else parameter for parameter in parameters]
            for parameters in (self.weights, self.biases, self.scales, self.shifts)
        )
        x = inputs.expand(len(weights[0]), *inputs.shape)
        for weight, *vectors in zip(weights[:-1], biases[:-1], scales, shifts, strict=True):
            x = _gelu(torch.bmm(x, weight), *(vector.squeeze(1) for vector in vectors))
        x = torch.baddbmm(biases[-1], x, weights[-1])
        return x.squeeze(-1) if self._scalar else x


def _gelu(
    x: torch.Tensor, bias: torch.Tensor, norm_weight: torch.Tensor | None, norm_bias: torch.Tensor | None
) -> torch.Tensor:
    """Return a hidden layer's units: bias, GELU and, with weights of it, LayerNorm."""
    return hidden_activation(
        x, bias, norm_weight, norm_bias, norm_eps=LAYER_NORM_EPS, activation="gelu", norm_first=False
    )


class PositiveNumber(nn.Module):
    """A learned positive number, which starts at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.log_value = nn.Parameter(torch.zeros(()))

    def forward(self) -> torch.Tensor:
        """Return the number, ()."""
        return self.log_value.exp()


def frozen_call(module: nn.Module, *arguments: Any, frozen: bool = True) -> torch.Tensor:
    """Call a module; if frozen, gradients reach its arguments but not its weights."""
    if not frozen:
        result: torch.Tensor = module(*arguments)
        return result
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    result = functional_call(module, weights, arguments)
    return result


def sinusoidal_embedding(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Return sines and then cosines of positions, at wavelengths from 2 pi to 20,000 pi (Vaswani et al., 2017).

    Args:
        positions: (*batch,), such as the step of a diffusion.
        width: even, at least 4.

    Returns:
        (*batch, width), in the positions' dtype, float32 for integers.
    """
    rates = torch.arange(width // 2, device=positions.device) * (-math.log(10_000) / (width // 2 - 1))
    angles = positions[..., None] * rates.exp()
    return torch.cat([angles.sin(), angles.cos()], -1)
