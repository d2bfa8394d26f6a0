"""A coupling flow for acting: weights folded once, matrices composed once."""

from typing import Any

import torch
from torch import nn

from nfkern.acting.base import DTYPES, Frozen, rounded, scale_name
from nfkern.flows.coupling import CouplingFlow
from nfkern.flows.coupling_maps import CouplingMaps
from nfkern.flows.flow import frozen_copy
from nfkern.flows.int8 import dequantized
from nfkern.kernels import CouplingParameters, compose, coupling

INT8 = ("hidden_weight", "context_weight")
"""Weights that `torch.int8` stands for: all large ones. The context's make hardly any error beside the hidden ones'."""


class FrozenFlow(Frozen, CouplingMaps):
    """A copy of a coupling flow for acting, with the calls of `Flow`; make one with `flow.freeze()`.

    LayerNorm is folded into the products that follow it and mixing is composed, both in float64, once. Nothing is
    shared with the flow it came from, and its later changes never show. Weights are buffers; results have no gradients;
    `train()` does nothing; several threads may call at once. It can be moved, copied and pickled, not cast.

    With an encoder, every call takes observations, (*batch, in_features), in place of contexts. The encoder is copied
    too and put in evaluation mode; an `nfkern.Encoder` gets its hidden weights in `dtype`.

    Args:
        flow: the flow to freeze; left as it is.
        dtype: of the hidden weights and their products; with 16 bits, all else is float32. None for the flow's own.
            torch.int8, on a CPU: hidden weights, here the context's too, have a scale in float32 for each output
            (`hidden_scale`, `context_scale`), and are multiplied in float32.
        encoder: from observations (*batch, in_features) to contexts (*batch, context_features).
        **normalizers: `normalizer` and `action_normalizer`, as in `Flow.freeze`.

    Raises:
        ValueError: another dtype, an encoder or normaliser that does not fit, or weights that are not finite in
            `dtype`.
        TypeError: `flow` is not a CouplingFlow, or `encoder` not a module.
    """

    frozen_dtypes = (*DTYPES, torch.int8)
    mixing: torch.Tensor
    mixing_log_det: torch.Tensor
    inverse_mixing: torch.Tensor
    inverse_log_det: torch.Tensor

    def __init__(
        self, flow: CouplingFlow, dtype: torch.dtype | None = None, encoder: nn.Module | None = None, **normalizers: Any
    ) -> None:
        if not isinstance(flow, CouplingFlow):
            raise TypeError(f"flow: expected a CouplingFlow, got {type(flow).__name__}")
        super().__init__(flow, dtype, encoder, **normalizers)
        self.norm_eps, self.inverted, self.scale_bound = flow.norm_eps, flow.inverted, flow.scale_bound

    def _compose(self, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return (self.inverse_mixing, self.inverse_log_det) if inverse else (self.mixing, self.mixing_log_det)

    def _tensors(self, flow: CouplingFlow) -> dict[str, torch.Tensor | None]:
        """Folded weights and composed matrices, computed in float64 and then rounded."""
        lu, permutation = flow._factors()
        lu = lu.double()
        exact: dict[str, torch.Tensor | None] = {"context_weight": flow.context_weight, "input_bias": flow.input_bias}
        parameters = CouplingParameters._make(p.double() for p in flow._parameters_tuple if p is not None)
        exact |= coupling.fold(parameters)._asdict()
        exact["mixing"], exact["mixing_log_det"] = compose(lu, permutation)
        exact["inverse_mixing"], exact["inverse_log_det"] = compose(lu, permutation, inverse=True)
        return rounded(exact, self.dtype, INT8 if self.dtype == torch.int8 else {"hidden_weight"})

    def _operand(self, name: str) -> Any:
        tensor = super()._operand(name)
        scale = self._buffers.get(scale_name(name)) if self.dtype == torch.int8 else None
        return tensor if scale is None else dequantized(tensor, scale)


frozen_copy.register(CouplingFlow, FrozenFlow)
