"""The control loop in JAX: encoder, inverse, density and its gradient in one jitted function, from numpy to numpy.

Noise is torch's, as of the other variants. Arrays of numpy go to the jitted function as they are: its own dispatch
makes XLA's buffers of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from nfkern import Encoder
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.control_loop import ControlProblem
from nfkern.bench.rivals import jax_jit

# jax is imported by the functions below: the registry must be readable where it is not installed.

Tree = Any
Array = Any


def _parameters(encoder: Encoder) -> Tree:
    """For each linear layer (weight (inputs, outputs), bias), and behind all but the last LayerNorm's two."""
    import jax.numpy as jnp

    layers = [
        [jnp.asarray(weight.detach().numpy().T) for weight in (module.weight, module.bias)]
        for module in encoder
        if isinstance(module, nn.Linear | nn.LayerNorm)
    ]
    return [[*linear, *norm] for linear, norm in zip(layers[0::2], [*layers[1::2], []], strict=True)]


def _encoded(layers: Tree, x: Array) -> Array:
    """(batch, 58) -> (batch, context_features)."""
    import jax

    *hidden, (last_weight, last_bias) = layers
    for weight, bias, scale, shift in hidden:
        x = x @ weight + bias
        centred = x - x.mean(-1, keepdims=True)
        x = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + shift
        x = jax.nn.silu(x)
    return x @ last_weight + last_bias


def _act(problem: ControlProblem) -> Implementation:
    import jax

    jax_jit.start_client(torch.get_num_threads())
    denoised, weights = jax_jit.denoised(problem.flow)
    layers = _parameters(problem.encoder)

    @jax.jit
    def action(observations: Array, noise: Array) -> Array:
        return denoised(*weights, noise, _encoded(layers, observations))

    def act(observations: np.ndarray) -> np.ndarray:
        noise = torch.randn(len(observations), problem.flow.features)
        return np.asarray(action(observations, noise.numpy()))

    return Implementation(act)


BUILDERS: Mapping[str, Builder] = {"control_loop": _act}
