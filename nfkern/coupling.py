"""The paper's flow: blocks of PLU mixing and conditional affine coupling, all blocks in one op per direction."""

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from nfkern.coupling_maps import CouplingMaps
from nfkern.flow import readable
from nfkern.kernels import compose
from nfkern.kernels.causal_affine.op import check_scale_bound

if TYPE_CHECKING:
    from nfkern.frozen import FrozenFlow


class CouplingFlow(CouplingMaps):
    r"""Conditional affine coupling flow with PLU mixing, the model of Ghugare and Eysenbach (2025).

    Each of K blocks maps data to noise by :math:`u = x P L (U + \mathrm{diag}\,s)`, keeps the first ceil(D/2) features
    a of u, and maps the rest by :math:`b \mapsto (b - t(a, c)) \, e^{-s(a, c)}`, with two separate networks
    (Linear, LeakyReLU(0.01), LayerNorm) x 2, Linear; their last layers start at zero.

    Parameters are stacked over blocks (axis 0) and over the pair (log_scale, shift) (axis 1): `mixing_lu` (K, D, D),
    `context_weight` (K, 2, h1, C), `input_weight` (K, 2, h1, ceil(D/2)), `input_bias`, `norm1_weight`, `norm1_bias`
    (K, 2, h1), `hidden_weight` (K, 2, h2, h1), `hidden_bias`, `norm2_weight`, `norm2_bias` (K, 2, h2),
    `output_weight` (K, 2, floor(D/2), h2), `output_bias` (K, 2, floor(D/2)); `permutation` (K, D) is a buffer.

    Args:
        features: D, at least 2 (with one feature nothing is left to transform).
        context_features: C; 0 for an unconditional flow.
        blocks: K.
        hidden: widths (h1, h2). The paper's torch code has (256, 256), its JAX code (256 + C, 256).
        norm_eps: LayerNorm's epsilon; 1e-5 in the torch code, 1e-6 in the JAX code.
        mixing: "plu"; "permute" for fixed random permutations; "none" (the first half of the features then never
            changes: only for use inside another model).
        inverted: parameterise the map from noise to data instead, as the paper's offline-RL code does.
        scale_bound: smooth bound of |log_scale| per block, `bound * tanh(raw / bound)`; None for the paper's plain exp.
        bounds: "tanh" for data in the box (-1, 1)^D, with the exact density; data outside count as lying on its face.
        context_dropout: probability of dropping a context in training, so that the flow also learns the marginal.

    Raises:
        ValueError: an argument out of range; the message names it.

    References:
        Ghugare and Eysenbach, "Normalizing Flows are Capable Models for RL", 2025, https://arxiv.org/abs/2505.23527.

    Example:
        >>> import torch
        >>> flow = CouplingFlow(features=8, context_features=64)
        >>> x, context = torch.randn(256, 8), torch.randn(256, 64)
        >>> flow(x, context).shape
        torch.Size([256])
        >>> flow.sample((10,), context).shape
        torch.Size([10, 256, 8])
    """

    mixing_lu: torch.Tensor
    permutation: torch.Tensor

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        *,
        blocks: int = 6,
        hidden: tuple[int, int] = (256, 256),
        norm_eps: float = 1e-5,
        mixing: Literal["plu", "permute", "none"] = "plu",
        inverted: bool = False,
        scale_bound: float | None = None,
        bounds: Literal["tanh"] | None = None,
        context_dropout: float = 0.0,
    ) -> None:
        super().__init__((features,), context_features, bounds=bounds, context_dropout=context_dropout)
        _check_options(features, blocks, hidden, norm_eps, mixing, scale_bound)
        self.blocks = blocks
        self.hidden = (hidden[0], hidden[1])
        self.norm_eps = norm_eps
        self.mixing = mixing
        self.inverted = inverted
        self.scale_bound = scale_bound
        self.config: dict[str, Any] = {
            "features": features,
            "context_features": context_features,
            "blocks": blocks,
            "hidden": list(hidden),
            "norm_eps": norm_eps,
            "mixing": mixing,
            "inverted": inverted,
            "scale_bound": scale_bound,
            "bounds": bounds,
            "context_dropout": context_dropout,
        }
        first, second = self.hidden
        kept, transformed, pair = (features + 1) // 2, features // 2, (blocks, 2)
        self.context_weight = nn.Parameter(torch.empty(*pair, first, context_features)) if context_features else None
        self.input_weight = nn.Parameter(torch.empty(*pair, first, kept))
        self.input_bias = nn.Parameter(torch.empty(*pair, first))
        self.norm1_weight = nn.Parameter(torch.ones(*pair, first))
        self.norm1_bias = nn.Parameter(torch.zeros(*pair, first))
        self.hidden_weight = nn.Parameter(torch.empty(*pair, second, first))
        self.hidden_bias = nn.Parameter(torch.empty(*pair, second))
        self.norm2_weight = nn.Parameter(torch.ones(*pair, second))
        self.norm2_bias = nn.Parameter(torch.zeros(*pair, second))
        self.output_weight = nn.Parameter(torch.zeros(*pair, transformed, second))
        self.output_bias = nn.Parameter(torch.zeros(*pair, transformed))
        self._composed: dict[bool, tuple[torch.Tensor, ...]] = {}
        self._reset_mixing()
        self._reset_conditioners()

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())

    def freeze(self, dtype: torch.dtype | None = None, encoder: nn.Module | None = None) -> "FrozenFlow":
        """A `FrozenFlow` for acting: the same calls without autograd, folded and composed once, in float64.

        Args:
            dtype: of the hidden weights, float32, bfloat16, float16 or float64; None for the flow's own. With 16 bits
                all else is float32.
            encoder: a module from observations (*batch, in_features) to contexts; the frozen flow then takes
                observations.

        Raises:
            ValueError: another dtype, an encoder that does not fit, or weights that are not finite in `dtype`.
            TypeError: `encoder` is no module.
        """
        from nfkern.frozen import FrozenFlow

        return FrozenFlow(self, dtype, encoder)

    def _reset_mixing(self) -> None:
        """PLU from random orthogonal matrices; without PLU, permutations held as trivial factors."""
        size, permutation, lu = self.features, [], []
        for _ in range(self.blocks):
            if self.mixing == "plu":
                p, lower, upper = torch.linalg.lu(nn.init.orthogonal_(torch.empty(size, size, dtype=torch.float64)))
                permutation.append(p.argmax(1))
                lu.append((torch.tril(lower, -1) + upper).to(torch.get_default_dtype()))
            else:
                permutation.append(torch.randperm(size) if self.mixing == "permute" else torch.arange(size))
                lu.append(torch.eye(size))
        self.register_buffer("permutation", torch.stack(permutation))
        if self.mixing == "plu":
            self.mixing_lu = nn.Parameter(torch.stack(lu))
        else:
            self.register_buffer("mixing_lu", torch.stack(lu), persistent=False)

    def _reset_conditioners(self) -> None:
        """torch.nn.Linear's default, U(+-1 / sqrt(fan_in)); the first layer's fan-in counts the context."""
        with torch.no_grad():
            bound = 1 / math.sqrt((self.features + 1) // 2 + self.context_features)
            for weight in (self.context_weight, self.input_weight, self.input_bias):
                if weight is not None:
                    weight.uniform_(-bound, bound)
            bound = 1 / math.sqrt(self.hidden[0])
            self.hidden_weight.uniform_(-bound, bound)
            self.hidden_bias.uniform_(-bound, bound)

    def _compose(self, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixing matrices and log-det, composed once per value of `mixing_lu` where no gradient is wanted.

        The cache compares contents, a few hundred numbers, because version counters miss edits through `.data`. On a
        GPU the comparison would synchronise, so nothing is cached there.
        """
        lu, permutation = self.mixing_lu, self.permutation
        with_grad = torch.is_grad_enabled() and lu.requires_grad
        if with_grad or not readable(lu):
            return compose(lu, permutation, inverse)
        cached = self._composed.get(inverse)
        if (
            cached is None
            or cached[0].dtype != lu.dtype
            or not torch.equal(cached[0], lu)
            or not torch.equal(cached[1], permutation)
        ):
            # Out of inference mode, so that a later call that records gradients can use the entry.
            with torch.inference_mode(False), torch.no_grad():
                cached = (lu.detach().clone(), permutation.clone(), *compose(lu, permutation, inverse))
            self._composed[inverse] = cached
        return cached[2], cached[3]


def _check_options(
    features: int, blocks: int, hidden: tuple[int, int], norm_eps: float, mixing: str, scale_bound: float | None
) -> None:
    if not isinstance(features, int) or features < 2:
        raise ValueError(
            f"features: expected an int >= 2, got {features!r}: a coupling flow keeps half of the features"
        )
    if not isinstance(blocks, int) or blocks < 1:
        raise ValueError(f"blocks: expected an int >= 1, got {blocks!r}")
    if (
        not isinstance(hidden, tuple | list)
        or len(hidden) != 2
        or not all(isinstance(width, int) and width >= 1 for width in hidden)
    ):
        raise ValueError(f"hidden: expected two widths >= 1, got {hidden!r}")
    if mixing not in ("plu", "permute", "none"):
        raise ValueError(f"mixing: expected 'plu', 'permute' or 'none', got {mixing!r}")
    if not norm_eps > 0:
        raise ValueError(f"norm_eps: expected a number > 0, got {norm_eps!r}")
    check_scale_bound(scale_bound)
