"""nfkern's flow frozen for acting: folded and composed once, before the clock starts."""

from collections.abc import Mapping

import torch

from nfkern import FrozenFlow
from nfkern.bench.declarations import Builder, Implementation
from nfkern.bench.flow_problem import SIGMA, FlowProblem


def _builders(dtype: torch.dtype) -> Mapping[str, Builder]:
    """The acting works with hidden weights in `dtype`."""

    def frozen(problem: FlowProblem) -> FrozenFlow:
        return problem.flow.freeze(dtype).warmup([problem.batch])

    def denoised_action(problem: FlowProblem) -> Implementation:
        flow = frozen(problem)
        return Implementation(lambda noise, context: flow.sample_denoised(SIGMA, (), context, noise=noise))

    return {
        "log_prob": lambda problem: Implementation(frozen(problem).log_prob),
        "inverse": lambda problem: Implementation(frozen(problem).to_data),
        "denoised_action": denoised_action,
    }


BUILDERS = _builders(torch.float32)
BF16_BUILDERS = _builders(torch.bfloat16)
