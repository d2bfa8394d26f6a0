"""nfkern's flow frozen for acting: folded and composed once, before the clock starts."""

from collections.abc import Mapping

import torch

from nfkern import Flow
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.causal_problem import CausalProblem
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem


def _builders(dtype: torch.dtype) -> Mapping[str, Builder]:
    """The acting works with hidden weights in `dtype`."""

    def frozen(problem: FlowProblem) -> Flow:
        return problem.flow.freeze(dtype).warmup([problem.batch])

    def denoised_action(problem: FlowProblem) -> Implementation:
        flow = frozen(problem)
        return Implementation(lambda noise, context: flow.sample_denoised(SIGMA, (), context, noise=noise))

    def frozen_causal(problem: CausalProblem) -> Flow:
        flow = problem.flow.freeze(dtype)
        # On a CPU nothing is captured, and the score of thousands of sequences takes long.
        return flow.warmup([problem.batch]) if problem.flow.input_bias.is_cuda else flow

    return {
        "log_prob": lambda problem: Implementation(frozen(problem).log_prob),
        "inverse": lambda problem: Implementation(frozen(problem).to_data),
        "denoised_action": denoised_action,
        "causal_log_prob": lambda problem: Implementation(frozen_causal(problem).log_prob),
        "causal_inverse": lambda problem: Implementation(frozen_causal(problem).to_data),
    }


BUILDERS = _builders(torch.float32)
BF16_BUILDERS = _builders(torch.bfloat16)
