"""Calls of the causal flow's ops in float64."""

import torch

from nfkern.kernels import CausalParameters, causal
from support import flows

NAMES = ("result", "log_det", "score")


def problem(name="published", rows=5, groups=5, length=None, **options):
    """Float64 arguments of the maps: events of `length` tokens, context term, parameters; and settings."""
    flow = flows.make_causal(name, **options)
    x = torch.randn(rows, length or flow.tokens, flow.features, dtype=torch.float64)
    term = torch.randn(groups, flow.config["blocks"], flow.config["width"], dtype=torch.float64)
    parameters = CausalParameters(*(p.detach() for p in flow._parameters_tuple))
    settings = {name: value for name, value in flow._settings.items() if name != "compute_dtype"}
    return (x, term, parameters), settings


def calls(settings):
    """Each map as a function of tensors and of the products' dtype."""

    def call(function):
        return lambda *arguments, compute_dtype=None: function(*arguments, **settings, compute_dtype=compute_dtype)

    return [call(function) for function in (causal.to_latent, causal.to_data, causal.to_data_with_score)]
