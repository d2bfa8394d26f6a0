"""Random calls of the coupling ops on any device, away from where derivatives jump, and all of their results."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from nfkern.bench.core.cases import FlowCase
from nfkern.bench.kernels.calls import COMPUTE_DTYPES, Arithmetic, Inputs, Maps, matmul_precision, ops, random_inputs
from nfkern.kernels import CouplingParameters
from nfkern.kernels.coupling import reference
from nfkern.kernels.coupling.conditioner import NEGATIVE_SLOPE, conditioner, expand_context
from nfkern.kernels.coupling.parameters import Settings

KINK_MARGIN = 2e-5
"""float32 preactivations are off by up to 7e-6 in twelve blocks of `chunked` (measured 2026-11, against float64)."""


@dataclass(frozen=True)
class Problem:
    """What is computed; `seeds` 0 for tensors without a seed dimension."""

    case: FlowCase
    rows: int
    groups: int
    bound: float | None = None
    seeds: int = 0

    @property
    def name(self) -> str:
        """As in `ogbench-256`, with what is unusual about it."""
        unusual = [f"{self.groups} contexts"] if self.groups != self.rows else []
        unusual += [f"bound {self.bound}"] if self.bound is not None else []
        unusual += [f"{self.seeds} seeds"] if self.seeds else []
        return f"{self.case.name}-{self.rows}" + (f" ({', '.join(unusual)})" if unusual else "")

    @property
    def terms(self) -> int:
        """How many terms a row's log-density sums."""
        return self.case.features * (self.case.blocks + 1)

    def maps(self, suffix: str) -> Maps:
        """See `ops`."""
        return ops(suffix)

    def inputs(self, device: torch.device, seed: int = 0) -> Inputs:
        """Random tensors, float32, away from the kinks of LeakyReLUs so that rounding decides about none."""
        generator = torch.Generator(device).manual_seed(seed)
        inputs = random_inputs(self.case, self.rows, self.groups, generator, self.seeds)
        pending = torch.arange(self.rows, device=device)
        while len(pending):
            near = self._kink_distance(inputs.map(torch.Tensor.double), pending) < KINK_MARGIN
            pending = pending[near]
            x = inputs.x[..., pending, :]
            inputs.x[..., pending, :] = torch.randn(x.shape, generator=generator, device=device)
        return inputs

    def run(self, maps: Maps, inputs: Inputs, arithmetic: Arithmetic, states: "States | None" = None) -> "Results":
        """All five ops on `inputs`; the backwards start from `states`, or from what the forward gave."""
        i, settings = inputs, (inputs.parameters, Settings(self.case.norm_eps, self.bound, COMPUTE_DTYPES[arithmetic]))
        with matmul_precision("tf32" if arithmetic == "tf32" else "ieee"):
            latent = maps.to_latent(i.x, i.term, i.mixing, i.mixing_log_det, *settings)
            data = maps.to_data(i.x, i.term, i.inverse, i.inverse_log_det, *settings)
            score = maps.to_data_with_score(i.x, i.term, i.mixing, i.inverse, i.inverse_log_det, *settings)
            states = states or States(latent[2], data[2])
            grads = (i.grad, i.grad_log_det)
            back = maps.to_latent_backward(*grads, states.latent, i.term, i.mixing, *settings, True)
            forth = maps.to_data_backward(*grads, states.data, i.term, i.inverse, *settings, True)
            alone = maps.to_latent_backward(*grads, states.latent, i.term, i.mixing, *settings, False)
        found = {"to_latent z": latent[0], "to_latent log_det": latent[1], "to_latent inputs": latent[2]}
        found |= {"to_data x": data[0], "to_data log_det": data[1], "to_data inputs": data[2]}
        found |= {"score x": score[0], "score log_det": score[1], "score score": score[2]}
        names = ("term", "mixing", *CouplingParameters._fields)
        for name, results in (("to_latent_backward", back), ("to_data_backward", forth)):
            found[f"{name} grad of x"] = results[0]
            found |= {f"{name} grad of {of}": grad for of, grad in zip(names, results[1:], strict=True)}
        found["to_latent_backward alone grad of x"] = alone[0]
        return Results(found, States(latent[2], data[2]))

    def _kink_distance(self, inputs: Inputs, rows: torch.Tensor) -> torch.Tensor:
        """How near `rows` come to a kink in either direction, whatever the seed, (len(rows),)."""
        every = [inputs.map(lambda t, s=seed: t[s]) for seed in range(self.seeds)] if self.seeds else [inputs]
        nearest = [torch.full(rows.shape, torch.inf, dtype=torch.float64, device=rows.device)]
        for i in every:
            x, term = i.x[rows], i.term[rows // (self.rows // self.groups)]
            settings = Settings(self.case.norm_eps, self.bound, None)
            into = reference.to_latent(x, term, i.mixing, i.mixing_log_det, i.parameters, settings)[2]
            out = reference.to_data(x, term, i.inverse, i.inverse_log_det, i.parameters, settings)[2]
            for states in (into @ i.mixing, out):
                kept = states[..., : (self.case.features + 1) // 2]
                terms = expand_context(term, len(x))
                for k, block in enumerate(i.parameters.blocks()):
                    _, layers = conditioner(kept[k], terms[k], block, settings)
                    for layer in layers:
                        activation = layer.activation
                        preactivation = torch.where(activation > 0, activation, activation / -NEGATIVE_SLOPE)
                        nearest.append(preactivation.amin((0, 2)))
        return torch.stack(nearest).amin(0)


class States(NamedTuple):
    """Each block's input in both directions, which the backwards start from."""

    latent: torch.Tensor
    data: torch.Tensor

    def float(self) -> "States":
        """Rounded to float32."""
        return States(self.latent.float(), self.data.float())


class Results(NamedTuple):
    """What the ops gave, by name, and each block's input."""

    found: dict[str, torch.Tensor]
    states: Any
