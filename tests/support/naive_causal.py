"""The causal flow block by block on `torch.nn.TransformerEncoderLayer`: the independent oracle of every fast path."""

import torch
from torch import nn


def transformer_layers(flow, k):
    """Block k's layers as PyTorch's own, sharing the flow's numbers."""
    config, layers = flow.config, []
    for i in range(config["layers"]):
        layer = nn.TransformerEncoderLayer(
            config["width"],
            config["heads"],
            config["width"] * config["expansion"],
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=flow.norm_eps,
            norm_first=True,
            batch_first=True,
            dtype=flow.input_bias.dtype,
        )
        names = {
            "self_attn.in_proj": "qkv",
            "self_attn.out_proj.": "projection",
            "linear1.": "up",
            "linear2.": "down",
            "norm1.": "attention_norm",
            "norm2.": "mlp_norm",
        }
        tensors = {}
        for theirs, ours in names.items():
            for kind in ("weight", "bias"):
                separator = "" if theirs.endswith(".") else "_"
                tensors[theirs + separator + kind] = getattr(flow, f"{ours}_{kind}")[k, i]
        layers.append((layer, tensors))
    return layers


def pairs(flow, k, seen, context):
    """log_scale and shift of each token, (rows, T, D), from tokens in the block's order."""
    rows, length, _ = seen.shape
    places = torch.arange(length).flip(0) if k % 2 else torch.arange(length)
    term = flow.input_bias[k].expand(rows, -1)
    if flow.context_weight is not None and context is not None:
        term = term + context @ flow.context_weight[k].T
    hidden = seen @ flow.input_weight[k].T + flow.position[k, places]
    hidden = torch.cat([term[:, None], hidden], 1) if flow.context_mode == "prefix" else hidden + term[:, None]
    mask = nn.Transformer.generate_square_subsequent_mask(hidden.shape[1], dtype=hidden.dtype)
    for layer, tensors in transformer_layers(flow, k):
        hidden = torch.func.functional_call(layer, tensors, (hidden,), {"src_mask": mask})
    output = torch.einsum("rsw,pdw->rspd", hidden, flow.output_weight[k]) + flow.output_bias[k]
    if flow.context_mode == "prefix":
        output = output[:, :-1]
    else:
        output = torch.cat([torch.zeros_like(output[:, :1]), output[:, :-1]], 1)
    log_scale, shift = output.unbind(2)
    if flow.scale_bound is not None:
        log_scale = flow.scale_bound * torch.tanh(log_scale / flow.scale_bound)
    return log_scale, shift


def to_latent(flow, x, context):
    """(rows, T, D) -> noise and log-det (rows)."""
    log_det = torch.zeros(len(x), dtype=x.dtype)
    if flow.bounds == "tanh":
        log_det = log_det - (1 - x.square()).log().sum((1, 2))
        x = torch.atanh(x)
    for k in range(flow.config["blocks"]):
        seen = x.flip(1) if k % 2 else x
        log_scale, shift = pairs(flow, k, seen, context)
        z = (seen - shift) * torch.exp(-log_scale)
        x, log_det = z.flip(1) if k % 2 else z, log_det - log_scale.sum((1, 2))
    return x, log_det


def log_prob(flow, x, context):
    """Log-density (rows)."""
    z, log_det = to_latent(flow, x, context)
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((1, 2)) + log_det


def to_data(flow, z, context):
    """The inverse, every token by a whole pass over all tokens: no cache that could be wrong."""
    log_det = torch.zeros(len(z), dtype=z.dtype)
    for k in reversed(range(flow.config["blocks"])):
        noise = z.flip(1) if k % 2 else z
        seen = torch.zeros_like(noise)
        for t in range(noise.shape[1]):
            log_scale, shift = pairs(flow, k, seen, context)
            seen = torch.cat([seen[:, :t], (noise * torch.exp(log_scale) + shift)[:, t : t + 1], seen[:, t + 1 :]], 1)
        log_scale, _ = pairs(flow, k, seen, context)
        z, log_det = seen.flip(1) if k % 2 else seen, log_det + log_scale.sum((1, 2))
    if flow.bounds == "tanh":
        z = torch.tanh(z)
        log_det = log_det + (1 - z.square()).log().sum((1, 2))
    return z, log_det
