"""The causal flow over a sequence of tokens: transformer blocks, all of them in one op per direction."""

import math
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn

from nfkern.arguments import number, whole
from nfkern.flows.causal_maps import CausalMaps
from nfkern.kernels.causal.parameters import shapes


class CausalFlow(CausalMaps):
    r"""Autoregressive flow over tokens, the model of Zhai et al. (2024) ("TarFlow"), for action chunks and the like.

    Each of K blocks reads the tokens in order with a causal transformer and transforms each token by a scale and a
    shift that depend on the tokens before it, :math:`z_t = (x_t - t_t) \, e^{-s_t}`; odd blocks read from the last
    token to the first. Densities take one pass over all tokens, samples go token by token. Events are (tokens,
    features). Within a block, the features of a token do not depend on each other: a flow over a single token is a
    Gaussian. Samples take the options of `rsample` and of `to_data`, and `tokens`, their length.

    Parameters are stacked over blocks (axis 0) and layers (axis 1), in the order of `CausalParameters`; before them
    `context_weight` (K, width, C) and `input_bias` (K, width). The last layers start at zero.

    Args:
        tokens: T, the longest sequence; shorter ones have their own density and samples.
        features: D, of each token.
        context_features: C; 0 for an unconditional flow.
        blocks: K.
        layers: of each block's transformer.
        width: of the transformer.
        heads: of each attention, a divisor of the width; None for heads 64 wide, as published, or one.
        expansion: of the MLPs, their hidden width over `width`.
        context_mode: "add" projects the context and adds it to every token, the published form for class embeddings;
            "prefix" makes it a position before the first token. With "add" each block leaves its first token as it is:
            one block is not enough, and a single token cannot be modelled.
        norm_eps: LayerNorm's epsilon.
        scale_bound: smooth bound of |log_scale| per block, `bound * tanh(raw / bound)`; None for the published exp.
        bounds: "tanh" for data in (-1, 1)^(T x D), with the exact density; data outside count as lying on the bound.
            Or (low, high), each a number or D of them, for a box.
        context_dropout: probability of dropping a context in training, so that the flow also learns the marginal, which
            guidance needs.

    Raises:
        ValueError: an argument out of range; the message names it.

    References:
        Zhai et al., "Normalizing Flows are Capable Generative Models", 2024, https://arxiv.org/abs/2412.06329.

    Example:
        >>> import torch
        >>> flow = CausalFlow(tokens=16, features=7, context_features=256, width=64)
        >>> x, context = torch.randn(32, 16, 7), torch.randn(32, 256)
        >>> flow(x, context).shape
        torch.Size([32])
        >>> flow.sample((10,), context).shape
        torch.Size([10, 32, 16, 7])
    """

    def __init__(
        self,
        tokens: int,
        features: int,
        context_features: int = 0,
        *,
        blocks: int = 4,
        layers: int = 2,
        width: int = 256,
        heads: int | None = None,
        expansion: int = 4,
        context_mode: Literal["add", "prefix"] = "add",
        norm_eps: float = 1e-5,
        scale_bound: float | None = None,
        bounds: Any = None,
        context_dropout: float = 0.0,
    ) -> None:
        if context_mode not in ("add", "prefix"):
            raise ValueError(f"context_mode: expected 'add' or 'prefix', got {context_mode!r}")
        tokens = whole("tokens", tokens, 1 if context_mode == "prefix" else 2)
        features, blocks = whole("features", features, 1), whole("blocks", blocks, 1)
        layers, width = whole("layers", layers, 1), whole("width", width, 1)
        expansion = whole("expansion", expansion, 1)
        heads = (width // 64 if width % 64 == 0 else 1) if heads is None else heads
        if not isinstance(heads, Integral) or heads < 1 or width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, got {heads!r}")
        super().__init__((tokens, features), context_features, bounds=bounds, context_dropout=context_dropout)
        context_features, context_dropout = self.context_features, self.context_dropout
        self.heads, self.context_mode = heads, context_mode = int(heads), context_mode
        self.norm_eps = norm_eps = number("norm_eps", norm_eps, "a number > 0", above=True)
        self.scale_bound = scale_bound = (
            None if scale_bound is None else number("scale_bound", scale_bound, "None or a number > 0", above=True)
        )
        self.config: dict[str, Any] = {
            "tokens": tokens,
            "features": features,
            "context_features": context_features,
            "blocks": blocks,
            "layers": layers,
            "width": width,
            "heads": heads,
            "expansion": expansion,
            "context_mode": context_mode,
            "norm_eps": norm_eps,
            "scale_bound": scale_bound,
            "bounds": self.bounds,
            "context_dropout": context_dropout,
        }
        self.context_weight = nn.Parameter(torch.empty(blocks, width, context_features)) if context_features else None
        self.input_bias = nn.Parameter(torch.empty(blocks, width))
        for name, shape in shapes(tokens, features, blocks, layers, width, width * expansion).items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self._reset_parameters()

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())

    def _reset_parameters(self) -> None:
        """torch.nn.Linear's default; positions N(0, 0.01^2) and last layers zero, as published."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("norm_weight"):
                    parameter.fill_(1)
                elif name.endswith("norm_bias") or name.startswith("output"):
                    parameter.zero_()
                elif name == "position":
                    parameter.normal_(0, 0.01)
                else:
                    parameter.uniform_(-1, 1).mul_(1 / math.sqrt(self._fan_in(name)))

    def _fan_in(self, name: str) -> int:
        """Fan-in of a parameter; the first layer's counts an added context, and a bias has its weight's."""
        prefix = self.context_mode == "prefix"
        if name in ("input_weight", "input_bias", "context_weight"):
            together = self.features + self.context_features
            alone = self.features if name == "input_weight" else max(self.context_features, 1)
            return alone if prefix else together
        weight: torch.Tensor = getattr(self, name.replace("bias", "weight"))
        return weight.shape[-1]
