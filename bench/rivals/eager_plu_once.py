"""The naive flow whose matrices were composed beforehand: what a careful user does before acting."""

from collections.abc import Callable, Mapping

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from nfkern.bench.core.declarations import Implementation
from nfkern.bench.problems.eager import EagerFlow, Mixing, denoised
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem


class FixedMixing(Mixing):
    """A mixing whose matrix, inverse and log-determinant are constants."""

    @torch.no_grad()
    def __init__(self, mixing: Mixing) -> None:
        super().__init__(len(mixing.scale))
        identity = torch.eye(len(mixing.scale), dtype=mixing.scale.dtype, device=mixing.scale.device)
        self.matrix, self.log_det = mixing.to_latent(identity)
        self.inverse, self.inverse_log_det = mixing.to_data(identity)

    def to_latent(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, D) -> (batch, D) and the log-determinant, ()."""
        return x @ self.matrix, self.log_det

    def to_data(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `to_latent`."""
        return z @ self.inverse, self.inverse_log_det


def fixed_flow(problem: FlowProblem) -> EagerFlow:
    """The naive flow with fixed mixings."""
    flow = EagerFlow.like(problem.flow)
    for block in flow.blocks:
        block.mixing = FixedMixing(block.mixing)
    return flow


def traced_action(problem: FlowProblem) -> torch.fx.GraphModule:
    """The denoised action with autograd's work written out, for exporters."""
    flow = fixed_flow(problem).requires_grad_(False)

    def act(noise: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        x = flow.to_data(noise, context)[0]
        score: torch.Tensor = torch.func.grad(lambda x: flow.log_prob(x, context).sum())(x)
        return x + SIGMA**2 * score

    traced: torch.fx.GraphModule = make_fx(act)(*problem.inputs[0])
    return traced


BUILDERS: Mapping[str, Callable[[FlowProblem], Implementation]] = {
    "log_prob": lambda problem: Implementation(fixed_flow(problem).log_prob),
    "inverse": lambda problem: Implementation(fixed_flow(problem).to_data),
    "denoised_action": lambda problem: Implementation(denoised(fixed_flow(problem))),
}
