"""The benchmarks' naive flows as oracles: functions of an nfkern flow, to whose own parameters gradients flow back."""

import torch
from torch.nn.functional import pad

from nfkern import CouplingFlow
from nfkern.bench.problems.eager import EagerFlow, stacked
from nfkern.bench.problems.eager_causal import EagerCausalFlow


class Method(torch.nn.Module):
    """One of a naive flow's methods as a module's call."""

    def __init__(self, flow, name):
        super().__init__()
        naive = EagerFlow(flow) if isinstance(flow, CouplingFlow) else EagerCausalFlow(flow)
        self.naive, self.name = naive.to(flow.input_bias.dtype), name
        self.weights = {f"naive.{key}": value for key, value in naive.weights(stacked(flow)).items()}

    def forward(self, *inputs):
        return getattr(self.naive, self.name)(*inputs)


def call(flow, name, *inputs):
    method = Method(flow, name)
    return torch.func.functional_call(method, method.weights, inputs)


def to_latent(flow, x, context=None):
    """Rows of data to noise, with the log-det."""
    return call(flow, "to_latent", x, context)


def to_data(flow, z, context=None):
    """Rows of noise to data, with the log-det."""
    return call(flow, "to_data", z, context)


def log_prob(flow, x, context=None):
    """Log-density of rows."""
    return call(flow, "log_prob", x, context)


def first_pairs(flow, x, context):
    """log_scale and shift of each token in a causal flow's first block, (rows, T, D) from (rows, T, D)."""
    found = EagerCausalFlow.like(flow, x.dtype).blocks[0].pairs(x, context)
    return [pad(each, (0, 0, x.shape[1] - each.shape[1], 0)) for each in found]
