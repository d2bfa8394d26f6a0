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
    "context_dropout": {"context_dropout": 0.3},
}


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


def make_inputs(flow, *batch, seed=1):
    """(x, context) with the batch shape given; x lies inside the box of a bounded flow."""
    generator = torch.Generator().manual_seed(seed)
    dtype = flow.input_bias.dtype
    x = torch.randn(*batch, flow.features, generator=generator, dtype=dtype)
    if flow.bounds == "tanh":
        x = torch.tanh(x)
    if not flow.context_features:
        return x, None
    return x, torch.randn(*batch, flow.context_features, generator=generator, dtype=dtype)
