"""How events meet contexts: broadcasting of batch shapes, arranged so that a context is projected once."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ProjectedContext:
    """A context after the flow's projection, reusable for any number of calls while the parameters stay the same.

    Attributes:
        term: (groups, ...), what the ops take; groups is the product of batch_shape.
        batch_shape: the context's batch shape, () where there is none.
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

    def rows(self, events: torch.Tensor) -> torch.Tensor:
        """(*event_batch, features) -> (rows, features)."""
        if self._in_order and events.shape[:-1] == self.batch_shape:
            return events.reshape(math.prod(self.batch_shape), events.shape[-1])
        expanded = events.expand(*self.batch_shape, events.shape[-1])
        return expanded.permute([*self.order, -1]).reshape(math.prod(self.batch_shape), events.shape[-1])

    def restore(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, ...) -> (*batch_shape, ...)."""
        if self._in_order:
            return rows.reshape([*self.batch_shape, *rows.shape[1:]])
        ordered = rows.reshape([*(self.batch_shape[i] for i in self.order), *rows.shape[1:]])
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return ordered.permute([*back, *range(len(back), ordered.ndim)])
