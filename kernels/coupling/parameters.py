"""The stacked parameters of a coupling flow's conditioners, and the settings of its maps, as named tuples."""

from typing import NamedTuple

import torch

from nfkern.kernels.dispatch.checks import check_compute_dtype, check_like, check_tensor


class Settings(NamedTuple):
    """Settings of the maps."""

    norm_eps: float
    scale_bound: float | None
    compute_dtype: torch.dtype | None


class CouplingParameters(NamedTuple):
    r"""Conditioner weights of all blocks; axis 0 is the block, axis 1 the pair (log_scale net, shift net).

    With D features, `kept = ceil(D / 2)`, `transformed = floor(D / 2)` and hidden widths h1, h2. The first layer's
    context weight and bias are not here: they act on the context alone and are projected before the chain.

    A set is *folded* (`folding.fold`) if all four norm tensors are None: LayerNorm then has no weight and bias of its
    own, and each row of the weight that follows it (`hidden_weight`, `output_weight`) sums to zero, up to rounding. A
    backend may therefore skip subtracting the mean: :math:`W \mathrm{LN}(u) + b = \mathrm{rstd}(u) \, W u + b`. The
    `hidden_weight` of a folded set may be in the ops' `compute_dtype`, all else is in the dtype of x. Folded sets are
    for acting: gradients reach x, the context term and the mixing matrices, but not a folded set's weights.
    """

    input_weight: torch.Tensor  # (blocks, 2, h1, kept)
    norm1_weight: torch.Tensor | None  # (blocks, 2, h1)
    norm1_bias: torch.Tensor | None  # (blocks, 2, h1)
    hidden_weight: torch.Tensor  # (blocks, 2, h2, h1)
    hidden_bias: torch.Tensor  # (blocks, 2, h2)
    norm2_weight: torch.Tensor | None  # (blocks, 2, h2)
    norm2_bias: torch.Tensor | None  # (blocks, 2, h2)
    output_weight: torch.Tensor  # (blocks, 2, transformed, h2)
    output_bias: torch.Tensor  # (blocks, 2, transformed)

    @property
    def folded(self) -> bool:
        """True if LayerNorm's weights and biases are folded into the products that follow."""
        return self.norm1_weight is None

    def shaped(self) -> "CouplingParameters":
        """Vectors as (..., 1, width), to broadcast over rows; leading dimensions before the blocks may be there."""
        rank = self.hidden_weight.ndim
        return CouplingParameters._make(
            tensor if tensor is None or tensor.ndim == rank else tensor.unsqueeze(-2) for tensor in self
        )

    def blocks(self) -> "list[CouplingParameters]":
        """The parameters of each block, without the block axis, as `shaped`.

        Shaped for all blocks at once, because at batch 1 every view costs as much as a small product.
        """
        nothing = (None,) * self.input_weight.shape[0]
        unbound = (nothing if tensor is None else tensor.unbind(0) for tensor in self.shaped())
        return [CouplingParameters(*block) for block in zip(*unbound, strict=True)]

    def check(self, x: torch.Tensor, blocks: int, compute_dtype: torch.dtype | None) -> None:
        """Refuse a set that is neither whole nor folded, or that does not go with events (rows, features) like `x`.

        Raises:
            ValueError: some norm tensors are None, but not all; a shape does not fit those of `hidden_weight` and `x`.
            TypeError: a tensor is missing, on another device or in another dtype than x; `hidden_weight` may be in
                `compute_dtype` if the set is folded.
        """
        check_compute_dtype(compute_dtype)
        missing = (self.norm1_weight is None) + (self.norm1_bias is None)
        missing += (self.norm2_weight is None) + (self.norm2_bias is None)
        if missing not in (0, 4):
            given = [name for name in self._fields if name.startswith("norm") and getattr(self, name) is not None]
            raise ValueError(f"parameters: expected all four norm tensors or None for each, got only {given}")
        check_tensor("parameters.hidden_weight", self.hidden_weight, (blocks, 2, "h2", "h1"))
        _, _, width2, width1 = self.hidden_weight.shape
        if not width1 or not width2:
            raise ValueError(f"parameters.hidden_weight: expected hidden widths >= 1, got {width1} and {width2}")
        kept, transformed = (x.shape[1] + 1) // 2, x.shape[1] // 2
        shapes = {
            "input_weight": (width1, kept),
            "norm1_weight": (width1,),
            "norm1_bias": (width1,),
            "hidden_weight": (width2, width1),
            "hidden_bias": (width2,),
            "norm2_weight": (width2,),
            "norm2_bias": (width2,),
            "output_weight": (transformed, width2),
            "output_bias": (transformed,),
        }
        found = self.hidden_weight.dtype
        if found != x.dtype and not (missing and found == compute_dtype):
            allowed = f"{x.dtype} or the compute_dtype ({compute_dtype})" if missing else f"{x.dtype} as x"
            raise TypeError(f"parameters.hidden_weight: expected {allowed}, got {found}")
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if missing and name.startswith("norm"):
                continue
            check_tensor(f"parameters.{name}", tensor, (blocks, 2, *shape))
            check_like(f"parameters.{name}", tensor, x, dtype=found if name == "hidden_weight" else None)
