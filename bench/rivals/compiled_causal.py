"""torch.compile, default mode, of the naive causal flow; the inverse is unrolled over all positions of all blocks."""

from collections.abc import Mapping

from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.causal_problem import CausalProblem
from nfkern.bench.problems.eager_causal import EagerCausalFlow
from nfkern.bench.problems.training import AdamWStep
from nfkern.bench.rivals.compiled import compile_whole


def log_prob(problem: CausalProblem) -> Implementation:
    """The density, compiled."""
    return Implementation(compile_whole(EagerCausalFlow.like(problem.flow).requires_grad_(False).log_prob))


def inverse(problem: CausalProblem) -> Implementation:
    """The inverse, compiled."""
    return Implementation(compile_whole(EagerCausalFlow.like(problem.flow).requires_grad_(False).to_data))


def training_step(problem: CausalProblem) -> Implementation:
    """Forward and backward compiled, the optimiser as everywhere."""
    flow = EagerCausalFlow.like(problem.flow)
    loss = compile_whole(lambda x, context: -flow.log_prob(x, context).mean())
    return Implementation(AdamWStep(flow.parameters(), loss), flow.gradients)


BUILDERS: Mapping[str, Builder] = {
    "causal_log_prob": log_prob,
    "causal_inverse": inverse,
    "causal_training_step": training_step,
}
