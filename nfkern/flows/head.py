"""A flow as a module from contexts to distributions."""

import torch
from torch import nn

from nfkern.flows.distribution import FlowDistribution
from nfkern.flows.flow import Context, Flow


class FlowHead(nn.Module):
    """Module from contexts to distributions of a flow: the last layer of a policy, in the place of a Gaussian's.

    `flow.condition` is the same function, but a bound method: a library that keeps it does not find the parameters, and
    its optimiser leaves them as they are. This module has them, under `flow.` and `encoder.`.

    Args:
        flow: the flow.
        encoder: a module from observations (*batch, in_features) to contexts (*batch, context_features); the head then
            takes observations. None if the layers before the head make the contexts.

    Raises:
        TypeError: `flow` is not a flow, or `encoder` not a module.

    Example:
        >>> import nfkern
        >>> head = FlowHead(nfkern.CouplingFlow(6, 64, bounds="tanh"), nn.Linear(17, 64))
        >>> actions, log_prob = head(torch.randn(256, 17)).rsample_and_log_prob()
        >>> actions.shape, log_prob.shape
        (torch.Size([256, 6]), torch.Size([256]))
    """

    def __init__(self, flow: Flow, encoder: nn.Module | None = None) -> None:
        super().__init__()
        if not isinstance(flow, Flow):
            raise TypeError(f"flow: expected a flow, got {type(flow).__name__}")
        if not isinstance(encoder, nn.Module | None):
            raise TypeError(f"encoder: expected a torch.nn.Module or None, got {type(encoder).__name__}")
        self.flow, self.encoder = flow, encoder

    def forward(self, context: Context = None) -> FlowDistribution:
        """p(. | context); the context, or with an encoder the observation, is projected once.

        Args:
            context: (*batch, context_features), or (*batch, in_features) with an encoder; None without either.

        Raises:
            ValueError, TypeError: as `Flow.log_prob`.
        """
        if self.encoder is not None and isinstance(context, torch.Tensor):
            context = self.encoder(context)
        return self.flow.condition(context)
