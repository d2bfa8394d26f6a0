"""A flow's works, called: the same for every model, so that variants differ in nothing else."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nfkern.bench.core.declarations import Implementation
from nfkern.bench.problems.flow_problem import SIGMA

LEARNING_RATE = 3e-4
WEIGHT_DECAY = 1e-6

ACTING = ("log_prob", "inverse", "denoised_action")
FLOWS = (*ACTING, "training_step")
ENCODED = ("encoded_training_step",)
CAUSAL = ("causal_log_prob", "causal_inverse", "causal_training_step")

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]


def uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is."""
    return function


class Model(nn.Module):
    """A flow in PyTorch that a compiler can see through."""

    def log_prob(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(batch, *event), (batch, C) -> nats, (batch,)."""
        raise NotImplementedError

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise (batch, *event), (batch, C) -> data (batch, *event) and the log-determinant (batch,)."""
        raise NotImplementedError

    def gradients(self) -> dict[str, torch.Tensor]:
        """The parameters' gradients under nfkern's names and in its shapes."""
        raise NotImplementedError

    def loss(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood, ()."""
        return -self.log_prob(x, context).mean()

    def denoised_action(self, compiler: Compiler) -> Callable[..., torch.Tensor]:
        """The function (noise, context) -> denoised action: inverse, then density, then autograd."""
        to_data, total = compiler(self.to_data), compiler(lambda x, context: self.log_prob(x, context).sum())

        def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
            return denoised(to_data(noise, context)[0], lambda x: total(x, context))

        return act


def denoised(x: torch.Tensor, total: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return samples moved by the score, autograd's of the sum of their log-densities."""
    with torch.enable_grad():
        x = x.requires_grad_()
        (score,) = torch.autograd.grad(total(x), x)
    return x.detach() + SIGMA**2 * score


def called(model: Model, work: str, compiler: Compiler = uncompiled) -> Implementation:
    """A work of flows, causal or not, done by a model."""
    job = work.removeprefix("causal_").removeprefix("encoded_")
    if job == "training_step":
        return Implementation(AdamWStep(model.parameters(), compiler(model.loss)), model.gradients)
    model.requires_grad_(False)
    if job == "denoised_action":
        return Implementation(model.denoised_action(compiler))
    return Implementation(compiler({"log_prob": model.log_prob, "inverse": model.to_data}[job]))


class AdamWStep:
    """One gradient step: forward, backward, torch.optim.AdamW in its fused implementation.

    PyTorch's default is slower for every flow, most for those of many small parameters: of the naive one's 34 ms, 3 on
    a CPU (2026-11). On a GPU the step can be captured as a CUDA graph, because the optimizer keeps its count there.

    Args:
        parameters: what is trained.
        loss: from one set of inputs to a scalar.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], loss: Callable[..., torch.Tensor]) -> None:
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
