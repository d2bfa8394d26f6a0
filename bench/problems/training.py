"""The optimiser step that every flow is trained with, so that variants differ in nothing else."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

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
        self.trained = list(parameters)
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True, capturable=self.trained[0].is_cuda
        )

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Take the step; the loss before it, detached and not synchronised."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(*inputs)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Steps taken inside leave parameters and optimizer as new, in the same memory; none may have gone before."""
        before = [parameter.detach().clone() for parameter in self.trained]
        yield
        with torch.no_grad():
            for parameter, value in zip(self.trained, before, strict=True):
                parameter.copy_(value)
            # AdamW's moments and its count of steps all begin at zero.
            for state in self.optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()
