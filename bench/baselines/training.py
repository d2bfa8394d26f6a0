"""The optimiser step that every flow is trained with, so that variants differ in nothing else."""

from collections.abc import Callable, Iterable

import torch

LEARNING_RATE = 3e-4
WEIGHT_DECAY = 1e-6


class AdamWStep:
    """One gradient step: forward, backward, torch.optim.AdamW in its fused implementation.

    PyTorch's default is slower for every flow, most for those of many small parameters: of the naive one's 34 ms, 3 on
    a CPU (2026-11). On a GPU the optimizer keeps its step count on the device, so that the step can be captured as a
    CUDA graph.

    Args:
        parameters: what is trained.
        loss: from one set of inputs to a scalar.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], loss: Callable[..., torch.Tensor]) -> None:
        self.loss = loss
        trained = list(parameters)
        self.optimizer = torch.optim.AdamW(
            trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True, capturable=trained[0].is_cuda
        )

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Take the step; the loss before it, detached and not synchronised."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(*inputs)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
