"""Optimiser of a flow and of modules that are trained with it."""

from collections.abc import Iterable

import torch


class FlowAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` in its fused implementation, for a flow and any other parameters.

    Every gradient is in `.grad`, so that clipping, hooks, accumulation, copies and `DistributedDataParallel` work as
    with any optimiser.

    Args:
        flow: the flow.
        others: further parameters, such as an encoder's.
        lr: learning rate; a tensor is kept, so that a captured CUDA graph sees its changes.
        betas: as in torch.optim.AdamW.
        eps: as in torch.optim.AdamW.
        weight_decay: as in torch.optim.AdamW.

    Raises:
        TypeError: `flow` is not a module.
    """

    def __init__(
        self,
        flow: torch.nn.Module,
        others: Iterable[torch.nn.Parameter] = (),
        *,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if not isinstance(flow, torch.nn.Module):
            raise TypeError(
                f"flow: expected a torch.nn.Module, whose parameters are taken, got a {type(flow).__name__}; other "
                "parameters are the second argument"
            )
        parameters = [*flow.parameters(), *others]
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
