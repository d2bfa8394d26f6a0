"""The flow as a user would write it in JAX: weights by name, one jitted function per work; the coupling flow, the loop.

Of a single row the coupling flow's weights are constants of the jitted function, of more they are its arguments
(measured 2026-11, inverse, AMD EPYC, Zen 3, constants against arguments: 217 and 282 us at batch 1, 8.8 and 8.2 ms at
batch 256). The score is `jax.grad`'s, the optimiser optax's AdamW; parameters and its state are donated to the step.

XLA's CPU client sizes its thread pool once, by the CPUs that the thread which makes it may use; no option of a call
changes that (jaxlib 0.10). So every builder makes a new client under an affinity mask of as many CPUs as PyTorch has
threads, and lifts the mask from its threads afterwards. A pool of one leaves all to the caller, a larger one shares
with it. Dispatch is synchronous, which serves this rival (inverse at batch 1: 183 us, against 382 us by the pool).
"""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nfkern import CouplingFlow
from nfkern.bench.core.declarations import Implementation
from nfkern.bench.problems.calls import LEARNING_RATE, WEIGHT_DECAY
from nfkern.bench.problems.eager import EagerFlow, NaiveFlow
from nfkern.bench.problems.encoded import EncodedFlow, EncodedModel, naive_encoded
from nfkern.bench.problems.flow_problem import SIGMA
from nfkern.bench.works.control_loop import ControlProblem

# jax is imported by the functions below: the registry must be readable where it is not installed.

_FIRST_MOMENT_DECAY = 0.9

Array = Any
Weights = dict[str, Array]


def start_client(threads: int) -> None:
    """Make this process's XLA client anew, with a pool of `threads` threads; arrays of the one before are lost.

    Raises:
        RuntimeError: there are fewer CPUs, or this system has no affinity masks.
    """
    import jax
    from jax.extend.backend import clear_backends

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(allowed) < threads:
        raise RuntimeError(f"XLA's pool cannot be given {threads} threads: {len(allowed)} CPUs can be chosen here")
    clear_backends()
    before = set(os.listdir("/proc/self/task"))
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.devices("cpu")
    finally:
        os.sched_setaffinity(0, allowed)
    for thread in set(os.listdir("/proc/self/task")) - before:
        with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
            os.sched_setaffinity(int(thread), allowed)


def _turned(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A product's weight from (outputs, inputs) to (inputs, outputs), or back."""
    return tensor.T if tensor.ndim == 2 and name.endswith("weight") else tensor


def arrays(module: nn.Module) -> Weights:
    """A module's weights and constants by name."""
    import jax.numpy as jnp

    named = (*module.named_parameters(), *module.named_buffers())
    return {name: jnp.asarray(_turned(name, tensor.detach()).numpy()) for name, tensor in named}


def norm(weights: Weights, name: str, x: Array, eps: float) -> Array:
    """LayerNorm."""
    import jax

    centred = x - x.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(weights: Weights, name: str, x: Array) -> Array:
    """Product and bias."""
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]


def encode(weights: Weights, encoder: nn.Sequential, x: Array) -> Array:
    """Contexts of observations; weights by the layers' numbers."""
    import jax

    for number, module in enumerate(encoder):
        if isinstance(module, nn.Linear):
            x = linear(weights, str(number), x)
        else:
            x = norm(weights, str(number), x, module.eps) if isinstance(module, nn.LayerNorm) else jax.nn.silu(x)
    return x


class JaxFlow:
    """A flow's functions of its weights, which are named as the naive flow's.

    Args:
        acting: the weights with which it acts.
        trained: those that training moves.
        constant: whether they are constants of the jitted function for a single row.
    """

    def __init__(self, acting: NaiveFlow, trained: NaiveFlow | EncodedModel, constant: bool) -> None:
        self.acting, self.trained, self.constant = acting, trained, constant

    def log_prob(self, weights: Weights, x: Array, context: Array) -> Array:
        """(batch, *event), (batch, C) -> (batch,)."""
        raise NotImplementedError

    def to_data(self, weights: Weights, z: Array, context: Array) -> tuple[Array, Array]:
        """(batch, *event), (batch, C) -> the same and the log-determinant (batch,)."""
        raise NotImplementedError

    def denoised(self, weights: Weights, noise: Array, context: Array) -> Array:
        """Inverse, density and `jax.grad` of the latter."""
        import jax

        x, _ = self.to_data(weights, noise, context)
        return x + SIGMA**2 * jax.grad(lambda x: self.log_prob(weights, x, context).sum())(x)


def build(describe: Callable[[Any], JaxFlow], work: str, problem: Any) -> Implementation:
    """A work of flows, jitted."""
    import jax

    start_client(torch.get_num_threads())
    flow, job = describe(problem.flow), work.removeprefix("causal_").removeprefix("encoded_")
    if job == "training_step":
        steps = _Training(flow)
        return Implementation(steps, steps.gradients, arguments=_to_jax, result=_to_torch)
    function = {"log_prob": flow.log_prob, "inverse": flow.to_data, "denoised_action": flow.denoised}[job]
    weights, constants = arrays(flow.acting), flow.constant and problem.batch == 1
    jitted = jax.jit(partial(function, weights)) if constants else partial(jax.jit(function), weights)
    return Implementation(lambda *inputs: jax.block_until_ready(jitted(*inputs)), arguments=_to_jax, result=_to_torch)


def _to_jax(*inputs: torch.Tensor) -> tuple[Array, ...]:
    import jax.numpy as jnp

    return tuple(jnp.asarray(tensor.numpy()) for tensor in inputs)


def _to_torch(result: Any) -> Any:
    import jax

    return jax.tree.map(lambda array: torch.from_numpy(np.array(array)), result)


class _Training:
    """Parameters and optimiser state that one jitted, donating function carries forward."""

    def __init__(self, flow: JaxFlow) -> None:
        import jax
        import optax

        optimizer = optax.adamw(LEARNING_RATE, b1=_FIRST_MOMENT_DECAY, weight_decay=WEIGHT_DECAY)
        moved = {name for name, _ in flow.trained.named_parameters()}

        def loss(weights: Weights, x: Array, context: Array) -> Array:
            return -flow.log_prob({**fixed, **weights}, x, context).mean()

        def step(weights: Weights, state: Any, x: Array, context: Array) -> tuple[Weights, Any, Array]:
            value, gradients = jax.value_and_grad(loss)(weights, x, context)
            updates, state = optimizer.update(gradients, state, weights)
            return optax.apply_updates(weights, updates), state, value

        every = arrays(flow.trained)
        fixed = {name: array for name, array in every.items() if name not in moved}
        self.weights = {name: array for name, array in every.items() if name in moved}
        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.state = jax.jit(optimizer.init)(self.weights)
        self.named, self.steps = flow.trained.named, 0

    def __call__(self, x: Array, context: Array) -> Array:
        """Take the step; the loss before it."""
        import jax

        # All that the step computes, not its loss alone, or the next call would pay for this one.
        self.weights, self.state, loss = jax.block_until_ready(self.step(self.weights, self.state, x, context))
        self.steps += 1
        return loss

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradient of the first step, of which AdamW's first moment is then a multiple."""
        if self.steps != 1:
            raise ValueError(f"gradients: expected one step, got {self.steps}")
        moments = _to_torch(self.state[0].mu)
        return self.named({name: _turned(name, m) / (1 - _FIRST_MOMENT_DECAY) for name, m in moments.items()})


class Coupling(JaxFlow):
    """The paper's flow; acting it has its matrices composed beforehand."""

    def __init__(self, flow: CouplingFlow) -> None:
        super().__init__(EagerFlow.composed(flow), EagerFlow.like(flow), constant=True)
        self.blocks, self.kept, self.eps = range(flow.blocks), (flow.features + 1) // 2, flow.norm_eps

    def _mixing(self, weights: Weights, k: int) -> tuple[Array, Array]:
        import jax.numpy as jnp

        mixing = f"blocks.{k}.mixing."
        if f"{mixing}matrix" in weights:
            return weights[f"{mixing}matrix"], weights[f"{mixing}log_det"]
        permutation, lower, upper, scale = (
            weights[mixing + name] for name in ("permutation", "lower", "upper", "scale")
        )
        lower, upper = jnp.tril(lower, -1) + jnp.eye(len(scale)), jnp.triu(upper, 1) + jnp.diag(scale)
        return permutation @ lower @ upper, jnp.log(jnp.abs(scale)).sum()

    def _pair(self, weights: Weights, k: int, kept: Array, context: Array) -> tuple[Array, Array]:
        """log_scale and shift, (batch, moved features) each."""
        import jax
        import jax.numpy as jnp

        inputs = jnp.concatenate([kept, context], axis=1)

        def network(name: str) -> Array:
            x = jax.nn.leaky_relu(linear(weights, f"{name}.input", inputs), 0.01)
            x = jax.nn.leaky_relu(linear(weights, f"{name}.hidden", norm(weights, f"{name}.norm1", x, self.eps)), 0.01)
            return linear(weights, f"{name}.output", norm(weights, f"{name}.norm2", x, self.eps))

        return network(f"blocks.{k}.log_scale"), network(f"blocks.{k}.shift")

    def log_prob(self, weights: Weights, x: Array, context: Array) -> Array:
        """(batch, D), (batch, C) -> (batch,)."""
        import jax.numpy as jnp

        log_det = 0.0
        for k in self.blocks:
            matrix, mixing_log_det = self._mixing(weights, k)
            x = x @ matrix
            kept, moved = x[:, : self.kept], x[:, self.kept :]
            log_scale, shift = self._pair(weights, k, kept, context)
            x = jnp.concatenate([kept, (moved - shift) * jnp.exp(-log_scale)], axis=1)
            log_det += mixing_log_det - log_scale.sum(1)
        return log_det - 0.5 * (x**2 + jnp.log(2 * jnp.pi)).sum(1)

    def to_data(self, weights: Weights, z: Array, context: Array) -> tuple[Array, Array]:
        """(batch, D), (batch, C) -> (batch, D), (batch,)."""
        import jax.numpy as jnp

        log_det = jnp.zeros(len(z))
        for k in reversed(self.blocks):
            kept, moved = z[:, : self.kept], z[:, self.kept :]
            log_scale, shift = self._pair(weights, k, kept, context)
            z = jnp.concatenate([kept, moved * jnp.exp(log_scale) + shift], axis=1)
            z = z @ weights[f"blocks.{k}.mixing.inverse"]
            log_det += weights[f"blocks.{k}.mixing.inverse_log_det"] + log_scale.sum(1)
        return z, log_det


class EncodedCoupling(JaxFlow):
    """The paper's flow behind its encoder, for training."""

    def __init__(self, encoded: EncodedFlow) -> None:
        self.flow = Coupling(encoded.model)
        super().__init__(self.flow.acting, naive_encoded(encoded), constant=False)
        self.encoder = encoded.encoder

    def log_prob(self, weights: Weights, x: Array, context: Array) -> Array:
        """(batch, D), (batch, 58) -> (batch,)."""
        layers, flow = (
            {name.removeprefix(part): array for name, array in weights.items() if name.startswith(part)}
            for part in ("encoder.", "model.")
        )
        return self.flow.log_prob(flow, x, encode(layers, self.encoder, context))


def control_loop(problem: ControlProblem) -> Implementation:
    """Encoder, inverse, density and its gradient in one jitted function; noise is torch's, as of the other variants."""
    import jax

    start_client(torch.get_num_threads())
    flow, encoder = Coupling(problem.flow), problem.encoder
    weights, layers = arrays(flow.acting), arrays(encoder)

    @jax.jit
    def action(x: Array, noise: Array) -> Array:
        return flow.denoised(weights, noise, encode(layers, encoder, x))

    def act(observations: np.ndarray) -> np.ndarray:
        noise = torch.randn(len(observations), problem.flow.features)
        # Arrays of numpy go in as they are: jit's own dispatch makes XLA's buffers of them.
        return np.asarray(action(observations, noise.numpy()))

    return Implementation(act)
