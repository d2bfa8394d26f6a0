"""Events and their contexts: batch shapes broadcast, and each context is projected once."""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from nfkern.kernels import linear


@dataclass(frozen=True)
class ProjectedContext:
    """A context after the flow's projection, reusable for any number of calls while the parameters stay the same.

    Attributes:
        term: (groups, ...), as the ops take it; groups is the product of batch_shape.
        batch_shape: the context's batch shape, () without a context.
    """

    term: torch.Tensor
    batch_shape: tuple[int, ...]


@dataclass(frozen=True)
class Arrangement:
    """Rows of events sorted by context: dimensions that share a context are innermost."""

    batch_shape: tuple[int, ...]
    order: tuple[int, ...]  # batch dimensions, those with their own context first

    @classmethod
    def of(cls, event_batch: tuple[int, ...], context_batch: tuple[int, ...]) -> "Arrangement":
        """Arrange events against contexts.

        Raises:
            ValueError: the batch shapes do not broadcast.
        """
        if event_batch == context_batch or not context_batch:
            return cls(event_batch, tuple(range(len(event_batch))))
        try:
            batch = tuple(torch.broadcast_shapes(event_batch, context_batch))
        except RuntimeError:
            raise ValueError(
                f"context: batch shape {context_batch} does not broadcast against batch shape {event_batch} of x"
            ) from None
        aligned = (1,) * (len(batch) - len(context_batch)) + context_batch
        shared = [i for i, size in enumerate(aligned) if size == 1 and batch[i] != 1]
        own = [i for i in range(len(batch)) if i not in shared]
        return cls(batch, (*own, *shared))

    @property
    def _in_order(self) -> bool:
        return self.order == tuple(range(len(self.order)))

    def rows(self, events: torch.Tensor, event_rank: int = 1) -> torch.Tensor:
        """(*event_batch, *event) -> (rows, *event)."""
        event_shape = events.shape[-event_rank:]
        if not self._in_order or events.shape[:-event_rank] != self.batch_shape:
            expanded = events.expand(*self.batch_shape, *event_shape)
            events = expanded.permute([*self.order, *range(-event_rank, 0)])
        return events.reshape(math.prod(self.batch_shape), *event_shape)

    def restore(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, ...) -> (*batch_shape, ...)."""
        if self._in_order:
            return rows.reshape([*self.batch_shape, *rows.shape[1:]])
        ordered = rows.reshape([*(self.batch_shape[i] for i in self.order), *rows.shape[1:]])
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return ordered.permute([*back, *range(len(back), ordered.ndim)])


def project(context: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor) -> torch.Tensor:
    """One product for all blocks: (groups, C), weight (*shape, C), bias (*shape) -> (groups, *shape).

    Without a context or a weight, the bias alone, (1, *shape).
    """
    if context is None or weight is None:
        return bias.unsqueeze(0)
    flat = weight.flatten(0, -2)
    if autocast_on(context.device):
        # Only the product drops precision: the bias is added in the parameters' dtype.
        return functional.linear(context, flat).to(bias.dtype).view(context.shape[0], *bias.shape) + bias
    # On other devices PyTorch's own is as fast, and `torch.vmap` can batch it.
    product = linear if context.device.type == "cpu" else functional.linear
    return product(context, flat, bias.flatten()).view(context.shape[0], *bias.shape)


def autocast_on(device: torch.device) -> bool:
    """Whether autocast is on; for "meta", which has none, PyTorch raises an error."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Context in which autocast is off."""
    return torch.autocast(device.type, enabled=False) if autocast_on(device) else contextlib.nullcontext()


def autocast_dtype(like: torch.Tensor) -> torch.dtype | None:
    """Dtype that autocast gives the hidden products of a flow with tensors like this one; None for the tensors' own."""
    # As PyTorch's own layers do, autocast leaves float64 alone.
    if like.dtype != torch.float32 or not autocast_on(like.device):
        return None
    return torch.get_autocast_dtype(like.device.type)
