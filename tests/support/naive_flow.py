"""The flow as its equations say, block by block and net by net: the independent oracle of every fast path."""

import math

import torch
from torch.nn.functional import layer_norm, leaky_relu


def matrices(flow):
    """W_k = P L (U + diag s), written out."""
    lu, size = flow.mixing_lu, flow.features
    result = []
    for k in range(flow.blocks):
        p = torch.zeros(size, size, dtype=lu.dtype)
        for i in range(size):
            p[i, flow.permutation[k, i]] = 1
        lower = torch.tril(lu[k], -1) + torch.eye(size, dtype=lu.dtype)
        upper = torch.triu(lu[k], 1)
        result.append(p @ lower @ (upper + torch.diag(torch.diagonal(lu[k]))))
    return result


def network(flow, k, which, kept, context):
    """One conditioner: which = 0 for log_scale, 1 for shift."""
    inputs, weight = kept, flow.input_weight[k, which]
    if flow.context_weight is not None:
        if context is None:
            context = torch.zeros(kept.shape[0], flow.context_features, dtype=kept.dtype)
        inputs = torch.cat([kept, context], -1)
        weight = torch.cat([weight, flow.context_weight[k, which]], 1)
    h = leaky_relu(inputs @ weight.T + flow.input_bias[k, which], 0.01)
    h = layer_norm(h, h.shape[-1:], flow.norm1_weight[k, which], flow.norm1_bias[k, which], flow.norm_eps)
    h = leaky_relu(h @ flow.hidden_weight[k, which].T + flow.hidden_bias[k, which], 0.01)
    h = layer_norm(h, h.shape[-1:], flow.norm2_weight[k, which], flow.norm2_bias[k, which], flow.norm_eps)
    out = h @ flow.output_weight[k, which].T + flow.output_bias[k, which]
    if which == 0 and flow.scale_bound is not None:
        out = flow.scale_bound * torch.tanh(out / flow.scale_bound)
    return out


def chain(flow, x, context):
    """The parameterised direction on rows (rows, D): mixing, then coupling, block after block."""
    kept_size, log_det = math.ceil(flow.features / 2), torch.zeros(x.shape[0], dtype=x.dtype)
    for k, w in enumerate(matrices(flow)):
        x = x @ w
        a, b = x[:, :kept_size], x[:, kept_size:]
        log_scale, shift = network(flow, k, 0, a, context), network(flow, k, 1, a, context)
        x = torch.cat([a, (b - shift) * torch.exp(-log_scale)], 1)
        log_det = log_det + torch.linalg.slogdet(w)[1] - log_scale.sum(1)
    return x, log_det


def unchain(flow, z, context):
    """The inverse of `chain`."""
    kept_size, log_det = math.ceil(flow.features / 2), torch.zeros(z.shape[0], dtype=z.dtype)
    for k, w in reversed(list(enumerate(matrices(flow)))):
        a, b = z[:, :kept_size], z[:, kept_size:]
        log_scale, shift = network(flow, k, 0, a, context), network(flow, k, 1, a, context)
        z = torch.cat([a, b * torch.exp(log_scale) + shift], 1) @ torch.linalg.inv(w)
        log_det = log_det - torch.linalg.slogdet(w)[1] + log_scale.sum(1)
    return z, log_det


def to_latent(flow, x, context=None):
    """Rows of data to noise, with the log-det."""
    inner = unchain if flow.inverted else chain
    if flow.bounds is None:
        return inner(flow, x, context)
    z, log_det = inner(flow, torch.atanh(x), context)
    return z, log_det - torch.log(1 - x**2).sum(1)


def to_data(flow, z, context=None):
    """Rows of noise to data, with the log-det."""
    x, log_det = (chain if flow.inverted else unchain)(flow, z, context)
    if flow.bounds is None:
        return x, log_det
    return torch.tanh(x), log_det + torch.log(1 - torch.tanh(x) ** 2).sum(1)


def log_prob(flow, x, context=None):
    """Log-density of rows."""
    z, log_det = to_latent(flow, x, context)
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det
