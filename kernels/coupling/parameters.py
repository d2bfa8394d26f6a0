"""The stacked parameters of a coupling flow's conditioners, as one named tuple."""

from typing import NamedTuple

import torch


class CouplingParameters(NamedTuple):
    """Conditioner weights of all blocks; axis 0 is the block, axis 1 the pair (log_scale net, shift net).

    With D features, `kept = ceil(D / 2)`, `transformed = floor(D / 2)` and hidden widths h1, h2. The first layer's
    context weight and bias are not here: they act on the context alone and are projected before the chain.
    """

    input_weight: torch.Tensor  # (blocks, 2, h1, kept)
    norm1_weight: torch.Tensor  # (blocks, 2, h1)
    norm1_bias: torch.Tensor  # (blocks, 2, h1)
    hidden_weight: torch.Tensor  # (blocks, 2, h2, h1)
    hidden_bias: torch.Tensor  # (blocks, 2, h2)
    norm2_weight: torch.Tensor  # (blocks, 2, h2)
    norm2_bias: torch.Tensor  # (blocks, 2, h2)
    output_weight: torch.Tensor  # (blocks, 2, transformed, h2)
    output_bias: torch.Tensor  # (blocks, 2, transformed)

    def shaped(self) -> "CouplingParameters":
        """Vectors as (..., 1, width), to broadcast over rows; leading dimensions before the blocks may be there."""
        rank = self.hidden_weight.ndim
        return CouplingParameters(*(tensor if tensor.ndim == rank else tensor.unsqueeze(-2) for tensor in self))

    def blocks(self) -> "list[CouplingParameters]":
        """The parameters of each block, without the block axis, as `shaped`.

        Shaped for all blocks at once, because at batch 1 every view costs as much as a small product.
        """
        return [
            CouplingParameters(*block) for block in zip(*(tensor.unbind(0) for tensor in self.shaped()), strict=True)
        ]
