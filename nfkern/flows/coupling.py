"""The paper's flow: blocks of PLU mixing and conditional affine coupling, all blocks in one op per direction."""

import math
import random
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import nn

from nfkern.arguments import flag, number, whole
from nfkern.flows.coupling_maps import CouplingMaps
from nfkern.flows.derivatives import differentiating, readable
from nfkern.flows.flow import Context, Map
from nfkern.flows.native_calls import NativeCalls
from nfkern.kernels import compose
from nfkern.kernels.dispatch.op_transforms import has_tangents
from nfkern.kernels.dispatch.registry import may_differentiate


class CouplingFlow(CouplingMaps):
    r"""Conditional affine coupling flow with PLU mixing, the model of Ghugare and Eysenbach (2025).

    Each of K blocks maps data to noise by :math:`u = x P L (U + \mathrm{diag}\,s)`, keeps the first ceil(D/2) features
    a of u, and maps the rest by :math:`b \mapsto (b - t(a, c)) \, e^{-s(a, c)}`, with two separate networks
    (Linear, LeakyReLU(0.01), LayerNorm) x 2, Linear; their last layers start at zero.

    Parameters are stacked over blocks (axis 0) and over the pair (log_scale, shift) (axis 1): `mixing_lu` (K, D, D),
    `context_weight` (K, 2, h1, C), `input_weight` (K, 2, h1, ceil(D/2)), `input_bias`, `norm1_weight`, `norm1_bias`
    (K, 2, h1), `hidden_weight` (K, 2, h2, h1), `hidden_bias`, `norm2_weight`, `norm2_bias` (K, 2, h2),
    `output_weight` (K, 2, floor(D/2), h2), `output_bias` (K, 2, floor(D/2)).

    `permutation` (K, D) is neither a parameter nor a buffer but follows from D and K: nothing that averages or casts
    weights can touch it. A flow saved when permutations were drawn brings its own, and keeps and saves it.

    Args:
        features: D. A block keeps half of them; of one feature it keeps none, so that the flow is a Gaussian given the
            context, before any `bounds`. Its networks then have an input that is always 0, and it has no mixing.
        context_features: C; 0 for an unconditional flow.
        blocks: K.
        hidden: widths (h1, h2). The paper's torch code has (256, 256), its JAX code (256 + C, 256).
        norm_eps: LayerNorm's epsilon; 1e-5 in the torch code, 1e-6 in the JAX code.
        mixing: "plu"; "permute" for fixed permutations without order; "none" (the first half of the features then never
            changes: only for use inside another model).
        inverted: parameterise the map from noise to data instead, as the paper's offline-RL code does.
        scale_bound: smooth bound of |log_scale| per block, `bound * tanh(raw / bound)`; None for the paper's plain exp.
        bounds: "tanh" for data in [-b, b]^D, b = 1 - 2^-24, with the exact density; data outside count as lying on the
            bound, and have the density and the derivatives there, in float32 as in float64. Or (low, high), each a
            number or D of them, for a box: `center + scale * tanh(u)`; samples may lie on its ends.
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
    _known: torch.Tensor | None = None
    """The permutation when it was last checked."""

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
        bounds: Any = None,
        context_dropout: float = 0.0,
    ) -> None:
        features, self.blocks, self.hidden = _checked_sizes(features, blocks, hidden)
        if mixing not in ("plu", "permute", "none"):
            raise ValueError(f"mixing: expected 'plu', 'permute' or 'none', got {mixing!r}")
        super().__init__((features,), context_features, bounds=bounds, context_dropout=context_dropout)
        self.norm_eps = number("norm_eps", norm_eps, "a number > 0", above=True)
        # One feature is the second of two, of which the first is always 0.
        self._width = max(features, 2)
        self.mixing = mixing if features > 1 else "none"
        self.inverted = flag("inverted", inverted)
        self.scale_bound = (
            None if scale_bound is None else number("scale_bound", scale_bound, "None or a number > 0", above=True)
        )
        self.config: dict[str, Any] = {
            "features": features,
            "context_features": self.context_features,
            "blocks": self.blocks,
            "hidden": list(self.hidden),
            "norm_eps": self.norm_eps,
            "mixing": mixing,
            "inverted": self.inverted,
            "scale_bound": self.scale_bound,
            "bounds": self.bounds,
            "context_dropout": self.context_dropout,
        }
        blocks, context_features, (first, second) = self.blocks, self.context_features, self.hidden
        kept, transformed, pair = (self._width + 1) // 2, self._width // 2, (blocks, 2)
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
        self._native = NativeCalls()
        self._reset_mixing()
        self._reset_conditioners()

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())

    def _reset_mixing(self) -> None:
        """PLU from random orthogonal matrices, L and U; without PLU, trivial factors."""
        self.permutation = self._own_permutation()
        if self.mixing == "plu":
            # A row of an orthogonal matrix may go anywhere: any permutation with these factors gives one.
            empty = (torch.empty(self.features, self.features, dtype=torch.float64) for _ in range(self.blocks))
            factors = [torch.linalg.lu(nn.init.orthogonal_(matrix))[1:] for matrix in empty]
            lu = torch.stack([torch.tril(lower, -1) + upper for lower, upper in factors])
            self.mixing_lu = nn.Parameter(lu.to(torch.get_default_dtype()))
        else:
            self._place()

    def _own_permutation(self) -> torch.Tensor:
        """The permutation of a flow of this kind, (K, D), int64."""
        if self.mixing == "none":
            return torch.arange(self._width, device="cpu").repeat(self.blocks, 1)
        return torch.tensor(_permutations(self._width, self.blocks), device="cpu")

    def _place(self) -> None:
        """Move fixed factors and the permutation to the parameters' device; the permutation never to "meta"."""
        like = self.input_bias
        if self.mixing != "plu":
            self.mixing_lu = self._identity(like)
        if like.device.type != "meta":
            self.permutation = self.permutation.to(like.device)

    def _identity(self, like: torch.Tensor) -> torch.Tensor:
        return torch.eye(self._width, dtype=like.dtype, device=like.device).expand(self.blocks, -1, -1)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._place()
        self._native = NativeCalls()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not torch.equal(self.permutation.cpu(), self._own_permutation()):
            destination[f"{prefix}permutation"] = self.permutation.clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take the permutation of a state dict; one without a permutation was saved with the flow's own."""
        super()._load_from_state_dict(state_dict, prefix, *args)
        _, _, _, unexpected, errors = args
        name, brings = f"{prefix}permutation", any(f"{prefix}{own}" in state_dict for own, _ in self.named_parameters())
        permutation = state_dict.get(name)
        if permutation is None:
            self.permutation = self._own_permutation() if brings else self.permutation
        else:
            unexpected[:] = [key for key in unexpected if key != name]
            try:
                self.permutation = self._permutation_of(name, permutation)
            except ValueError as error:
                errors.append(str(error))
        self._place()

    def _permutation_of(self, name: str, permutation: torch.Tensor) -> torch.Tensor:
        """A permutation of each block's features, (K, D), as int64 on the CPU.

        Raises:
            ValueError: it is not a permutation, as after an average or a cast.
        """
        found, shape = permutation.detach().cpu(), (self.blocks, self._width)
        order = torch.arange(self._width, device="cpu").expand(shape)
        if found.shape != shape or found.is_complex() or not torch.equal(found.double().sort(1)[0], order.double()):
            got = found.tolist() if found.numel() < 100 else f"shape {tuple(found.shape)}, {found.dtype}"
            raise ValueError(
                f"{name}: expected {self.blocks} permutations of 0 to {self._width - 1}, got {got}; leave it out of "
                "averages and casts: it is not a weight"
            )
        return found.to(torch.int64, copy=True)

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

    def _run(
        self,
        which: Map,
        events: torch.Tensor,
        context: Context = None,
        dropout: bool = False,
        **options: Any,
    ) -> tuple[torch.Tensor, ...]:
        if not (options or (dropout and self.context_dropout)) and self._without_derivatives(events, context):
            found = self._native.run(self, which, events, context)
            if found is not None:
                return found
        return super()._run(which, events, context, dropout, **options)

    def _without_derivatives(self, events: Any, context: Any) -> bool:
        """Whether a call needs nothing but results in the parameters' precision."""
        if torch.compiler.is_compiling() or may_differentiate((*self._parameters.values(), events, context)):
            return False
        return not differentiating() and self._compute_dtype is None

    @property
    def _composed_from(self) -> tuple[torch.Tensor, ...]:
        return (self.permutation, self.mixing_lu) if self.mixing == "plu" else (self.permutation,)

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Arguments of `compose`, on the device and in the dtype of the parameters.

        Raises:
            ValueError: the permutation is not one.
        """
        like, lu, permutation = self.input_bias, self.mixing_lu, self.permutation
        known = self._known is not None and readable(permutation) and torch.equal(self._known, permutation)
        if not known and _may_keep(permutation):
            self._known = self._permutation_of("permutation", permutation)
        if self.mixing != "plu" and (lu.dtype, lu.device) != (like.dtype, like.device):
            # A module on "meta" that is called with parameters from elsewhere, as `torch.func.functional_call` does.
            lu = self._identity(like)
        return lu, permutation.to(like.device)

    def _compose(self, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixing matrices and log-det, composed once per value of `mixing_lu` if no gradient is recorded.

        The cache compares contents, a few hundred numbers, because version counters miss edits through `.data`. On a
        GPU the comparison would synchronise, so nothing is cached there.
        """
        lu, permutation = self._factors()
        with_grad = torch.is_grad_enabled() and lu.requires_grad
        if with_grad or not _may_keep(lu) or has_tangents([lu]):
            return compose(lu, permutation, inverse)
        cached = self._composed.get(inverse)
        if (
            cached is None
            or cached[0].dtype != lu.dtype
            or not torch.equal(cached[0], lu)
            or not torch.equal(cached[1], permutation)
        ):
            # Outside inference mode, so that a later call that records gradients can use the entry.
            with torch.inference_mode(False), torch.no_grad():
                cached = (lu.detach().clone(), permutation.clone(), *compose(lu, permutation, inverse))
            self._composed[inverse] = cached
        return cached[2], cached[3]


def _may_keep(tensor: torch.Tensor) -> bool:
    """Whether results of a tensor may be kept for later calls: those of a transform belong to the transform."""
    return readable(tensor) and not torch._C._are_functorch_transforms_active()


def _permutations(features: int, blocks: int) -> list[list[int]]:
    """Random permutations, the same in every version of Python and PyTorch: Python promises to keep `random()`."""
    generator = random.Random(0)
    keys = ([generator.random() for _ in range(features)] for _ in range(blocks))
    return [sorted(range(features), key=each.__getitem__) for each in keys]


def _checked_sizes(features: Any, blocks: Any, hidden: Any) -> tuple[int, int, tuple[int, int]]:
    features = whole("features", features, 1)
    try:
        first, second = (whole("hidden", width, 1) for width in hidden)
    except (TypeError, ValueError):
        raise ValueError(f"hidden: expected two widths >= 1, got {hidden!r}") from None
    return features, whole("blocks", blocks, 1), (first, second)
