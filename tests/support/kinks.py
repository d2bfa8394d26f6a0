"""Inputs of a coupling flow at which derivatives are smooth: LeakyReLU's jumps at zero, and rounding would decide."""

import torch

from nfkern.bench.kernels.calls import CouplingCalls, CouplingInputs, cast
from nfkern.kernels.coupling import reference
from nfkern.kernels.coupling.conditioner import NEGATIVE_SLOPE, conditioner, expand_context
from nfkern.kernels.coupling.parameters import Settings
from nfkern.kernels.dispatch.seeds import of_seed

KINK_MARGIN = 2e-5
"""float32 preactivations are off by up to 7e-6 in twelve blocks of `chunked` (measured 2026-11, against float64)."""


def move_away(calls: CouplingCalls, inputs: CouplingInputs) -> None:
    """Draw rows again, in place, that come near a kink in either direction."""
    pending, generator = torch.arange(calls.rows, device=inputs.x.device), torch.Generator(inputs.x.device)
    while len(pending):
        near = _distance(calls, cast(inputs, torch.float64), pending) < KINK_MARGIN
        pending = pending[near]
        x = inputs.x[..., pending, :]
        inputs.x[..., pending, :] = torch.randn(x.shape, generator=generator, device=x.device)


def _distance(calls: CouplingCalls, inputs: CouplingInputs, rows: torch.Tensor) -> torch.Tensor:
    """The distance of `rows` from a kink in either direction, whatever the seed, (len(rows),)."""
    every = [_of_seed(inputs, seed) for seed in range(calls.seeds)] if calls.seeds else [inputs]
    nearest = [torch.full(rows.shape, torch.inf, dtype=torch.float64, device=rows.device)]
    for i in every:
        x, term = i.x[rows], i.term[rows // (calls.rows // calls.groups)]
        settings = Settings(calls.case.norm_eps, calls.bound, None)
        into = reference.to_latent(x, term, i.mixing, i.mixing_log_det, i.parameters, settings)[2]
        out = reference.to_data(x, term, i.inverse, i.inverse_log_det, i.parameters, settings)[2]
        for states in (into @ i.mixing, out):
            kept = states[..., : (calls.case.features + 1) // 2]
            terms = expand_context(term, len(x))
            for k, block in enumerate(i.parameters.blocks()):
                _, layers = conditioner(kept[k], terms[k], block, settings)
                for layer in layers:
                    activation = layer.activation
                    preactivation = torch.where(activation > 0, activation, activation / -NEGATIVE_SLOPE)
                    nearest.append(preactivation.amin((0, 2)))
    return torch.stack(nearest).amin(0)


def _of_seed(inputs: CouplingInputs, seed: int) -> CouplingInputs:
    *tensors, parameters = inputs
    return CouplingInputs(*of_seed(tuple(tensors), seed), type(parameters)(*of_seed(parameters, seed)))
