"""Flows by name: a new option is one line here and inherits every test that runs over all of them."""

import torch

import nfkern

OPTIONS = {
    "paper": {},
    "odd_features": {"features": 7},
    "two_features": {"features": 2},
    "unconditional": {"context_features": 0},
    "unequal_hidden": {"hidden": (20, 12)},
    "jax_norm": {"norm_eps": 1e-6, "hidden": (15, 11)},
    "one_block": {"blocks": 1},
    "permuted": {"mixing": "permute"},
    "unmixed": {"mixing": "none"},
    "inverted": {"inverted": True},
    "scale_bound": {"scale_bound": 0.7},
    "tanh_bounds": {"bounds": "tanh"},
    "inverted_tanh": {"inverted": True, "bounds": "tanh", "scale_bound": 1.0},
    "box": {"bounds": (-1.0, [0.5, 1.0, 1.5, 2.0, 30.0, 0.0])},
    "context_dropout": {"context_dropout": 0.3},
}


CAUSAL_OPTIONS = {
    "published": {},
    "prefix": {"context_mode": "prefix"},
    "unconditional": {"context_features": 0},
    "unconditional_prefix": {"context_features": 0, "context_mode": "prefix"},
    "one_block": {"blocks": 1, "context_mode": "prefix"},
    "one_layer": {"layers": 1, "heads": 1},
    "many_heads": {"heads": 8},
    "odd_sizes": {"tokens": 7, "features": 1, "width": 15, "heads": 3, "expansion": 3},
    "two_tokens": {"tokens": 2},
    "one_token": {"tokens": 1, "context_mode": "prefix"},
    "bounded_scale": {"scale_bound": 0.7},
    "tanh_bounds": {"bounds": "tanh"},
    "box": {"bounds": (-1.0, [0.5, 2.0, 30.0])},
    "context_dropout": {"context_dropout": 0.3},
}

EVERY = (*OPTIONS, *(f"causal_{name}" for name in CAUSAL_OPTIONS))


def make_flow(name="paper", dtype=torch.float64, seed=0, **options):
    """A small flow with random weights everywhere, so that no term is zero or one by initialisation."""
    arguments = {"features": 6, "context_features": 5, "blocks": 3, "hidden": (16, 16)} | OPTIONS[name] | options
    torch.manual_seed(seed)
    flow = nfkern.CouplingFlow(**arguments).to(dtype)
    randomize(flow)
    return flow


def randomize(flow, spread=0.3):
    """Perturb every parameter; the output layers are scaled to give log_scales of about `spread`."""
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name == "output_weight":
                parameter.normal_(0, spread / flow.hidden[1] ** 0.5)
            elif name != "mixing_lu":
                parameter.add_(torch.randn_like(parameter) * 0.1)


def make(name, dtype=torch.float64):
    """Any flow by name: one of `OPTIONS`, or `causal_` and one of `CAUSAL_OPTIONS`."""
    return make_flow(name, dtype) if name in OPTIONS else make_causal(name.removeprefix("causal_"), dtype)


def make_inputs(flow, *batch, seed=1):
    """(x, context) with the batch shape given; x lies within the bounds of a bounded flow."""
    generator = torch.Generator().manual_seed(seed)
    dtype = flow.input_bias.dtype
    x = torch.randn(*batch, *flow.event_shape, generator=generator, dtype=dtype)
    if flow.bounds is not None:
        low, high = torch.tensor((-1.0, 1.0) if flow.bounds == "tanh" else flow.bounds, dtype=dtype)
        x = (low + high) / 2 + (high - low) / 2 * torch.tanh(x)
    if not flow.context_features:
        return x, None
    return x, torch.randn(*batch, flow.context_features, generator=generator, dtype=dtype)


def distance_to_bounds(flow, x):
    """Smallest distance of a row's numbers to a bound, (rows,), as a part of half the width."""
    low, high = torch.tensor((-1.0, 1.0) if flow.bounds == "tanh" else flow.bounds, dtype=x.dtype)
    return (1 - ((x - (low + high) / 2) / (high - low) * 2).abs()).flatten(1).amin(1)


def make_causal(name="published", dtype=torch.float64, seed=0, **options):
    """A small causal flow with random weights everywhere."""
    arguments = {"tokens": 5, "features": 3, "context_features": 4, "blocks": 3, "layers": 2, "width": 16, "heads": 2}
    torch.manual_seed(seed)
    flow = nfkern.CausalFlow(**(arguments | CAUSAL_OPTIONS[name] | options)).to(dtype)
    with torch.no_grad():
        for parameter_name, parameter in flow.named_parameters():
            if parameter_name == "output_weight":
                parameter.normal_(0, 0.15 / flow.config["width"] ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return flow
