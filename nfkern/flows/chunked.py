"""Calls without derivatives over very many contexts, which are projected and mapped some at a time."""

from typing import Any

import torch

from nfkern.flows.context import Arrangement
from nfkern.flows.flow import ARGUMENT, Context, Flow, Map
from nfkern.kernels.dispatch.registry import may_differentiate

TERM_BYTES = 64 << 20
"""Bytes of projected contexts that such a call holds; the paper's flow has 12 kB for each, so 12 GB for a million."""


class Chunked(Flow):
    """A flow whose projected contexts are much larger than its contexts."""

    def _run(
        self,
        which: Map,
        events: torch.Tensor,
        context: Context = None,
        dropout: bool = False,
        **options: Any,
    ) -> tuple[torch.Tensor, ...]:
        if not isinstance(context, torch.Tensor) or not self._in_chunks(events, context):
            return super()._run(which, events, context, dropout, **options)
        events, contexts, rank = self._events(ARGUMENT[which], events), context.flatten(0, -2), len(self.event_shape)
        arrangement = Arrangement.of(tuple(events.shape[:-rank]), tuple(context.shape[:-1]))
        rows, most = arrangement.rows(events, rank), self._contexts_at_a_time
        each, found = rows.shape[0] // contexts.shape[0], []
        for start in range(0, contexts.shape[0], most):
            term = self._project(contexts[start : start + most], dropout).term
            found.append(self._rows(which, rows[start * each : (start + most) * each], term, **options))
        results = tuple(torch.cat(parts) for parts in zip(*found, strict=True))
        self._explain_nan(results)
        return tuple(arrangement.restore(result) for result in results)

    @property
    def _contexts_at_a_time(self) -> int:
        # The first layers' biases are as large as one projected context.
        most = max(1, TERM_BYTES // self._like.nbytes)
        # Sixteen rows, of whatever size, keep the parts' addresses round: a GPU has a kernel of its own for others.
        return most // 16 * 16 or most

    def _in_chunks(self, events: Any, context: torch.Tensor) -> bool:
        if torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(context):
            return False
        if context.ndim < 2 or context.shape[:-1].numel() <= self._contexts_at_a_time:
            return False
        return not may_differentiate((events, context, *self.parameters()))
