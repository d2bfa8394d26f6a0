"""A gradient step for one agent or for several seeds of one: optimiser, schedule, moving average."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nfkern.algorithms.agents.config import AgentConfig

Tensors = dict[str, torch.Tensor]
Noise = tuple[torch.Tensor, ...]
Info = dict[str, torch.Tensor]
LossAndInfo = tuple[torch.Tensor, Info]
ParameterGroups = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


def sum_of_parts(parts: Mapping[str, LossAndInfo]) -> LossAndInfo:
    """Return the sum of a loss's parts, and each part and its details, detached, with its name as a prefix."""
    info = {
        f"{part}/{name}": value.detach()
        for part, (loss, details) in parts.items()
        for name, value in ({"loss": loss} | details).items()
    }
    return torch.stack([loss for loss, _ in parts.values()]).sum(), info


class Trainable(Protocol):
    """An agent, or several seeds of one, as a gradient step needs it."""

    optimizer: torch.optim.AdamW
    scheduler: lr_scheduler.LRScheduler

    def __call__(self, batch: Tensors, noise: Noise, /) -> LossAndInfo:
        """Return the loss, and its parts for the log."""

    def average(self) -> None:
        """Move the average of the weights, if one is kept."""


def gradient_step(model: Trainable, batch: Tensors, noise: Noise) -> Info:
    """Compute loss and gradient, and move weights and average; the caller advances the schedule."""
    loss, info = model(batch, noise)
    model.optimizer.zero_grad()
    # Several seeds have a loss each; the sum gives each seed its own gradient.
    loss.sum().backward()
    model.optimizer.step()
    model.average()
    return info


@torch.no_grad()
def move_average(averages: Iterable[torch.Tensor], values: Iterable[torch.Tensor], decay: float, first: bool) -> None:
    """Move PyTorch's moving average; `AveragedModel` itself would wait for the device at each step."""
    if first:
        torch._foreach_copy_(list(averages), list(values))
    else:
        get_ema_multi_avg_fn(decay)(list(averages), list(values), None)


class _CosineThenConstant(lr_scheduler.CosineAnnealingLR):
    """Cosine decay that stays at its end: PyTorch's rises again if a run goes on for longer."""

    def get_lr(self) -> list[float | torch.Tensor]:
        if self.last_epoch > self.T_max:
            return [group["lr"] for group in self.optimizer.param_groups]
        return super().get_lr()


def optimization(
    parameters: ParameterGroups, config: AgentConfig
) -> tuple[torch.optim.AdamW, lr_scheduler.LRScheduler]:
    """Return the optimiser of parameters, or of groups with settings of their own, and its schedule."""
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return optimizer, _schedule(optimizer, config)


def _schedule(optimizer: torch.optim.Optimizer, config: AgentConfig) -> lr_scheduler.LRScheduler:
    """Return linear warm-up followed by a constant rate or cosine decay, made of PyTorch's schedules."""
    after = max(1, config.steps - config.warmup_steps)
    main: lr_scheduler.LRScheduler
    if config.schedule == "cosine":
        main = _CosineThenConstant(optimizer, after, eta_min=config.final_learning_rate)
    else:
        main = lr_scheduler.ConstantLR(optimizer, factor=1.0)
    if not config.warmup_steps:
        return main
    warmup = lr_scheduler.LinearLR(optimizer, 1 / config.warmup_steps, total_iters=config.warmup_steps)
    return lr_scheduler.SequentialLR(optimizer, [warmup, main], milestones=[config.warmup_steps])
