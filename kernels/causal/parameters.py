"""The stacked parameters of a causal flow's transformers, as one named tuple."""

from typing import NamedTuple

import torch

from nfkern.kernels.dispatch.checks import check_compute_dtype, check_like, check_tensor


class CausalParameters(NamedTuple):
    """Weights of all blocks' transformers; axis 0 is the block, and for weights of layers axis 1 the layer.

    The context's weight and the first layer's bias are not here: they act on the context alone and are projected before
    the chain, (groups, blocks, width).
    """

    input_weight: torch.Tensor  # (blocks, width, features)
    position: torch.Tensor  # (blocks, tokens, width), by a token's place in the data, whatever the block's order
    attention_norm_weight: torch.Tensor  # (blocks, layers, width)
    attention_norm_bias: torch.Tensor  # (blocks, layers, width)
    qkv_weight: torch.Tensor  # (blocks, layers, 3 width, width): queries, keys, values, each head by head
    qkv_bias: torch.Tensor  # (blocks, layers, 3 width)
    projection_weight: torch.Tensor  # (blocks, layers, width, width)
    projection_bias: torch.Tensor  # (blocks, layers, width)
    mlp_norm_weight: torch.Tensor  # (blocks, layers, width)
    mlp_norm_bias: torch.Tensor  # (blocks, layers, width)
    up_weight: torch.Tensor  # (blocks, layers, hidden, width)
    up_bias: torch.Tensor  # (blocks, layers, hidden)
    down_weight: torch.Tensor  # (blocks, layers, width, hidden)
    down_bias: torch.Tensor  # (blocks, layers, width)
    output_weight: torch.Tensor  # (blocks, 2, features, width): log_scale, shift
    output_bias: torch.Tensor  # (blocks, 2, features)

    def check(self, like: torch.Tensor, compute_dtype: torch.dtype | None) -> None:
        """Refuse a set whose shapes do not belong together, or that does not go with tensors like this one.

        Raises:
            ValueError: a shape does not fit those of `position`, `input_weight` and `up_weight`.
            TypeError: a tensor is missing, on another device, or in another dtype; the layers' weights may be in
                compute_dtype.
        """
        check_compute_dtype(compute_dtype)
        check_tensor("parameters.position", self.position, ("blocks", "tokens", "width"))
        check_tensor("parameters.input_weight", self.input_weight, ("blocks", "width", "features"))
        check_tensor("parameters.up_weight", self.up_weight, ("blocks", "layers", "hidden", "width"))
        check_tensor("parameters.qkv_weight", self.qkv_weight, ("blocks", "layers", "3 width", "width"))
        blocks, positions, width = self.position.shape
        layers, hidden, features = self.up_weight.shape[1], self.up_weight.shape[2], self.input_weight.shape[-1]
        if not all((blocks, positions, width, layers, hidden, features)):
            raise ValueError(
                f"parameters: expected no empty ones, got position {tuple(self.position.shape)}, input_weight "
                f"{tuple(self.input_weight.shape)}, up_weight {tuple(self.up_weight.shape)}"
            )
        for name, shape in shapes(positions, features, blocks, layers, width, hidden).items():
            tensor = getattr(self, name)
            check_tensor(f"parameters.{name}", tensor, shape)
            check_like(f"parameters.{name}", tensor, like, dtype=self.qkv_weight.dtype if name in HIDDEN else None)
        if self.qkv_weight.dtype not in (like.dtype, compute_dtype):
            raise TypeError(
                f"parameters.qkv_weight: expected {like.dtype} or the compute_dtype ({compute_dtype}), "
                f"got {self.qkv_weight.dtype}"
            )

    def blocks(self) -> "list[CausalParameters]":
        """The parameters of each block, without the block axis."""
        unbound = (tensor.unbind(0) for tensor in self)
        return [CausalParameters(*block) for block in zip(*unbound, strict=True)]


class LayerParameters(NamedTuple):
    """Weights of one layer of one block: those of `CausalParameters` that have a layer axis, without it."""

    attention_norm_weight: torch.Tensor
    attention_norm_bias: torch.Tensor
    qkv_weight: torch.Tensor
    qkv_bias: torch.Tensor
    projection_weight: torch.Tensor
    projection_bias: torch.Tensor
    mlp_norm_weight: torch.Tensor
    mlp_norm_bias: torch.Tensor
    up_weight: torch.Tensor
    up_bias: torch.Tensor
    down_weight: torch.Tensor
    down_bias: torch.Tensor

    @classmethod
    def of(cls, block: CausalParameters) -> "list[LayerParameters]":
        """The parameters of each layer of a block."""
        unbound = (getattr(block, name).unbind(0) for name in cls._fields)
        return [cls(*layer) for layer in zip(*unbound, strict=True)]


HIDDEN = ("qkv_weight", "projection_weight", "up_weight", "down_weight")
"""Names of the weights of the layers' products, which may be in 16 bits while all others are not."""


def shapes(
    positions: int, features: int, blocks: int, layers: int, width: int, hidden: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of `CausalParameters` by name."""
    layer = {
        "attention_norm_weight": (width,),
        "attention_norm_bias": (width,),
        "qkv_weight": (3 * width, width),
        "qkv_bias": (3 * width,),
        "projection_weight": (width, width),
        "projection_bias": (width,),
        "mlp_norm_weight": (width,),
        "mlp_norm_bias": (width,),
        "up_weight": (hidden, width),
        "up_bias": (hidden,),
        "down_weight": (width, hidden),
        "down_bias": (width,),
    }
    return {
        "input_weight": (blocks, width, features),
        "position": (blocks, positions, width),
        **{name: (blocks, layers, *shape) for name, shape in layer.items()},
        "output_weight": (blocks, 2, features, width),
        "output_bias": (blocks, 2, features),
    }
