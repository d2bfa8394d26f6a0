"""Arguments for every op of the library."""

import torch

from nfkern.kernels import CouplingParameters, compose, coupling
from support import flows

DIFFERENTIABLE = {
    "standard_normal_log_prob",
    "linear",
    "plu_compose",
    "coupling_to_latent",
    "coupling_to_data",
    "causal_affine",
    "causal_flow_to_latent",
}


def problem(features=5, groups=3, per_group=2, dtype=torch.float64, bound=None, seed=0):
    flow = flows.make_flow(features=features, dtype=dtype, seed=seed)
    rows = groups * per_group
    x = torch.randn(rows, features, dtype=dtype)
    term = torch.randn(groups, flow.blocks, 2, flow.hidden[0], dtype=dtype)
    return flow, x, term, {"scale_bound": bound, "norm_eps": 1e-5}


def op_cases(seed=0, folded=False, compute_dtype=None):
    """name -> arguments, for each op of the library."""
    flow, x, term, _ = problem(seed=seed)
    parameters = [p.detach() for p in flow._parameters_tuple]
    if folded:
        parameters = coupling.fold(CouplingParameters(*parameters), compute_dtype)
    lu, settings = flow.mixing_lu.detach(), (1e-5, 1.5, compute_dtype)
    (mixing, log_det), (inverse, inverse_log_det) = (compose(lu, flow.permutation, i) for i in (False, True))
    inputs, rows = torch.randn(flow.blocks, *x.shape, dtype=x.dtype), torch.randn(len(x), dtype=x.dtype)
    backward = (x, rows, inputs, term, mixing, *parameters, *settings)
    return {
        "standard_normal_log_prob": (x,),
        "standard_normal_log_prob_backward": (rows, x),
        "linear": (x, torch.randn(7, x.shape[1], dtype=x.dtype), torch.randn(7, dtype=x.dtype)),
        "plu_compose": (lu, flow.permutation, True),
        "plu_compose_backward": (mixing, log_det, lu, flow.permutation, True),
        "coupling_to_latent": (x, term, mixing, log_det, *parameters, *settings),
        "coupling_to_latent_backward": (*backward, True),
        "coupling_to_data": (x, term, inverse, inverse_log_det, *parameters, *settings, True),
        "coupling_to_data_backward": (*backward, False),
        "coupling_to_data_with_score": (x, term, mixing, inverse, inverse_log_det, *parameters, *settings),
        **_causal_cases(seed),
    }


def _causal_cases(seed):
    flow = flows.make_causal(seed=seed)
    rows, groups, width = 4, 2, flow.config["width"]
    x, term = (torch.randn(shape, dtype=torch.float64) for shape in ((rows, 4, flow.features), (groups, 3, width)))
    parameters = [p.detach() for p in flow._parameters_tuple]
    settings, log_det = (flow.heads, False, 1e-5, 1.5, None), torch.randn(rows, dtype=torch.float64)
    pairs, inputs = torch.randn(rows, 3, 2, flow.features).double(), torch.randn(3, *x.shape).double()
    without, annealed = torch.randn(1, 3, width).double(), (0.5, True, None)
    return {
        "causal_affine": (x, pairs, log_det, True, 1.5),
        "causal_affine_backward": (x, log_det, x, pairs, True, 1.5),
        "causal_flow_to_latent": (x, term, *parameters, *settings, True),
        "causal_flow_to_latent_backward": (x, log_det, inputs, term, *parameters, *settings, True),
        "causal_flow_to_data": (x, term, *parameters, *settings, without, *annealed),
        "causal_flow_to_data_with_score": (x, term, *parameters, *settings),
    }


def op_cases_over_seeds(seeds=2):
    """`op_cases` with a leading seed dimension on every tensor."""
    cases = [op_cases(seed) for seed in range(seeds)]
    return {
        name: tuple(
            torch.stack(each) if isinstance(each[0], torch.Tensor) else each[0]
            for each in zip(*(case[name] for case in cases), strict=True)
        )
        for name in cases[0]
    }
