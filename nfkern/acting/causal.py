"""A causal flow for acting."""

from typing import Any

import torch
from torch import nn

from nfkern.acting.base import Frozen, rounded
from nfkern.flows.causal import CausalFlow
from nfkern.flows.causal_maps import CausalMaps
from nfkern.flows.flow import frozen_copy
from nfkern.kernels.causal.parameters import HIDDEN, CausalParameters


class FrozenCausalFlow(Frozen, CausalMaps):
    """A copy of a causal flow for acting, with the calls of `CausalFlow`; make one with `flow.freeze()`.

    Nothing is shared with the flow it came from, and its later changes never show. Weights are buffers; results have no
    gradients; `train()` does nothing; several threads may call at once. It can be moved, copied and pickled, not
    cast.

    With an encoder, every call takes observations, (*batch, in_features), in place of contexts. The encoder is copied
    too and put in evaluation mode; an `nfkern.Encoder` gets its hidden weights in `dtype`.

    Args:
        flow: the flow to freeze; left as it is.
        dtype: of the layers' weights and their products; with 16 bits, all else is float32. None for the flow's own.
        encoder: from observations (*batch, in_features) to contexts (*batch, context_features).
        **normalizers: `normalizer` and `action_normalizer`, as in `Flow.freeze`.

    Raises:
        ValueError: another dtype, an encoder or normaliser that does not fit, or weights that are not finite in
            `dtype`.
        TypeError: `flow` is not a CausalFlow, or `encoder` not a module.
    """

    def __init__(
        self, flow: CausalFlow, dtype: torch.dtype | None = None, encoder: nn.Module | None = None, **normalizers: Any
    ) -> None:
        if not isinstance(flow, CausalFlow):
            raise TypeError(f"flow: expected a CausalFlow, got {type(flow).__name__}")
        super().__init__(flow, dtype, encoder, **normalizers)
        self.heads, self.context_mode = flow.heads, flow.context_mode
        self.norm_eps, self.scale_bound = flow.norm_eps, flow.scale_bound

    def _tensors(self, flow: CausalFlow) -> dict[str, torch.Tensor | None]:
        names = ("context_weight", "input_bias", *CausalParameters._fields)
        return rounded({name: getattr(flow, name) for name in names}, self.dtype, HIDDEN)


frozen_copy.register(CausalFlow, FrozenCausalFlow)
