"""A causal flow with random weights and inputs: what every work on causal flows is given."""

import torch

from nfkern import CausalFlow
from nfkern.bench.core.cases import CausalCase
from nfkern.bench.problems.flow_problem import SEED, Problem
from nfkern.numerics import perturb

CausalProblem = Problem[CausalCase, CausalFlow]


def random_causal_flow(case: CausalCase) -> CausalFlow:
    """A flow of this shape, the same at every call, in which every parameter does something."""
    # The constructor draws from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        flow = CausalFlow(
            case.tokens,
            case.features,
            case.context_features,
            blocks=case.blocks,
            layers=case.layers,
            width=case.width,
        )
    return perturb(flow, torch.Generator().manual_seed(SEED))
