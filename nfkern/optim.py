"""An optimiser for coupling flows that never writes the gradient of the hidden weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.adamw import adamw

from nfkern.coupling import CouplingFlow
from nfkern.kernels.adamw import AdamWSettings, adamw_from_factors
from nfkern.kernels.coupling.conditioner import HiddenFactors


class FlowAdamW(torch.optim.Optimizer):
    """AdamW for one coupling flow and, beside it, any other parameters; equal to `torch.optim.AdamW` to rounding.

    The gradient of `hidden_weight`, three quarters of the paper's flow, is a product over the batch. Here the backward
    pass leaves its factors, and `step` forms a tile of the product, steps these weights with it and forgets it: on a
    GPU in one kernel, elsewhere by the same formulas in PyTorch. `hidden_weight.grad` and `norm1_weight.grad` therefore
    are None before and after a step, and cannot be clipped or inspected. Several backward passes before a step add up
    as usual; the step uses their factors up, and `zero_grad` of the optimiser, not of the flow, drops them.

    This is for a GPU. A CPU's kernels form the product at once: `torch.optim.AdamW(..., fused=True)` is faster there.

    Args:
        flow: while the optimiser exists, the flow leaves factors for it; `detach` ends that.
        others: further parameters, such as an encoder's.
        lr: learning rate; a tensor is kept, so that a captured CUDA graph sees its changes.
        betas: as in torch.optim.AdamW.
        eps: as in torch.optim.AdamW.
        weight_decay: as in torch.optim.AdamW.

    Raises:
        ValueError: the flow has such an optimiser already, or its hidden weights are not trained.
    """

    def __init__(
        self,
        flow: CouplingFlow,
        others: Iterable[torch.nn.Parameter] = (),
        *,
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if flow.take_factors is not None:
            raise ValueError("flow: expected one without a FlowAdamW, got one that leaves its factors to another")
        if not flow.hidden_weight.requires_grad:
            raise ValueError("flow: expected trained hidden weights, got hidden_weight.requires_grad=False")
        self._flow = flow
        self._factors: list[HiddenFactors] = []
        parameters = [*flow.parameters(), *others]
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        flow.take_factors = self._factors.append

    def detach(self) -> None:
        """Let the flow record plain gradients again."""
        self._flow.take_factors = None
        self._factors.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients, and factors."""
        super().zero_grad(set_to_none)
        self._factors.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter that has a gradient; `closure`, if given, is run first with gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        (group,) = self.param_groups
        if self._factors:
            self._step_hidden(group)
        trained = [p for p in group["params"] if p.requires_grad and p.grad is not None]
        states = [self._state_of(p) for p in trained]
        beta1, beta2 = group["betas"]
        adamw(
            trained,
            [p.grad for p in trained],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        # Used up, as the factors that it came from are.
        self._flow.norm1_weight.grad = None
        return loss

    def _step_hidden(self, group: dict[str, Any]) -> None:
        """The hidden weights from their factors; norm1_weight is left its gradient, for the step of the others."""
        flow, state = self._flow, self._state_of(self._flow.hidden_weight)
        state["step"] += 1
        # Rows of several backward passes are rows of one product.
        grad2, normalized1 = (
            parts[0] if len(parts) == 1 else torch.cat(parts, -2) for parts in zip(*self._factors, strict=True)
        )
        lr = torch.as_tensor(group["lr"], dtype=flow.hidden_weight.dtype, device=flow.hidden_weight.device)
        beta1, beta2 = group["betas"]
        settings = AdamWSettings(state["step"], lr, beta1, beta2, group["eps"], group["weight_decay"])
        flow.norm1_weight.grad = adamw_from_factors(
            flow.hidden_weight,
            state["exp_avg"],
            state["exp_avg_sq"],
            flow.norm1_weight,
            flow.norm1_bias,
            grad2,
            normalized1,
            settings,
        )
        self._factors.clear()

    def _state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
        return state
