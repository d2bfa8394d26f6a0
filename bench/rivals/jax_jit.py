"""The paper's flow as a user would write it in JAX: a pytree of parameters, one jitted function per work.

Written from the flow's definition; it shares no line with nfkern's flow or the eager one. For inference the matrices
are composed beforehand in float64. Of a single row the weights are constants of the jitted function, of more they are
its arguments: measured 2026-11, inverse, AMD EPYC, Zen 3, constants against arguments: 217 and 282 us at batch 1, where
passing the weights counts, 8.8 and 8.2 ms at batch 256. The score is `jax.grad`'s, the optimiser optax's AdamW with the
other variants' settings; parameters and optimiser state are donated to the step.

XLA's CPU client sizes its thread pool once, by the CPUs that the thread which makes it may use, and no option of a call
changes that (`xla_cpu_multi_thread_eigen` does not, jaxlib 0.10). So every builder makes a new client under an affinity
mask of as many CPUs as PyTorch has threads, and lifts the mask from its threads afterwards, so that the system may move
them. A pool of one leaves all to the caller, a larger one shares with it. Dispatch is synchronous, which serves this
rival (measured 2026-11, inverse at batch 1: 183 us, against 382 us by way of the pool).
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from nfkern import CouplingFlow
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.flow_problem import SIGMA, FlowProblem
from nfkern.bench.problems.training import LEARNING_RATE, WEIGHT_DECAY

# jax is imported by the functions below: the registry must be readable where it is not installed.

_LAYERS = ("input", "norm1", "hidden", "norm2", "output")
_FIRST_MOMENT_DECAY = 0.9

Tree = Any
Array = Any
Named = dict[str, torch.Tensor]


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


def _parameters(flow: CouplingFlow) -> Tree:
    """Blocks of {"lu": (D, D), "log_scale": layers, "shift": layers}; weights of products are (inputs, outputs)."""
    import jax.numpy as jnp

    def layers(k: int, pair: int) -> Tree:
        weights = {name: getattr(flow, f"{name}_weight")[k, pair].detach() for name in _LAYERS}
        if flow.context_weight is not None:
            weights["input"] = torch.cat([weights["input"], flow.context_weight[k, pair].detach()], dim=1)
        return {
            name: {
                "weight": jnp.asarray(weight.T.numpy() if weight.ndim == 2 else weight.numpy()),
                "bias": jnp.asarray(getattr(flow, f"{name}_bias")[k, pair].detach().numpy()),
            }
            for name, weight in weights.items()
        }

    return [
        {"lu": jnp.asarray(lu.detach().numpy()), "log_scale": layers(k, 0), "shift": layers(k, 1)}
        for k, lu in enumerate(flow.mixing_lu)
    ]


def _composed(flow: CouplingFlow, inverse: bool) -> Tree:
    """For every block the matrix that its input is multiplied by, and the log-determinant."""
    import jax.numpy as jnp

    found = []
    for lu, order in zip(flow.mixing_lu.detach().double().numpy(), flow.permutation.numpy(), strict=True):
        matrix = np.eye(len(lu))[order] @ (np.tril(lu, -1) + np.eye(len(lu))) @ np.triu(lu)
        log_det = np.log(np.abs(np.diagonal(lu))).sum()
        matrix, log_det = (np.linalg.inv(matrix), -log_det) if inverse else (matrix, log_det)
        found.append((jnp.asarray(matrix, jnp.float32), jnp.asarray(log_det, jnp.float32)))
    return found


def _mixings(blocks: Tree, permutation: np.ndarray) -> Tree:
    """The density direction's matrices and log-determinants, for training."""
    import jax.numpy as jnp

    identity = jnp.eye(permutation.shape[1])
    return [
        (identity[order] @ (jnp.tril(b["lu"], -1) + identity) @ jnp.triu(b["lu"]), _log_det(b["lu"]))
        for b, order in zip(blocks, permutation, strict=True)
    ]


def _log_det(lu: Array) -> Array:
    import jax.numpy as jnp

    return jnp.log(jnp.abs(jnp.diagonal(lu))).sum()


def _network(layers: Tree, inputs: Array, norm_eps: float) -> Array:
    """(batch, inputs) -> (batch, outputs): linear, LeakyReLU, LayerNorm, twice; linear."""
    import jax

    def linear(name: str, x: Array) -> Array:
        return x @ layers[name]["weight"] + layers[name]["bias"]

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + norm_eps)
        return scaled * layers[name]["weight"] + layers[name]["bias"]

    x = norm("norm1", jax.nn.leaky_relu(linear("input", inputs), 0.01))
    x = norm("norm2", jax.nn.leaky_relu(linear("hidden", x), 0.01))
    return linear("output", x)


def _functions(flow: CouplingFlow) -> tuple[Callable[..., Array], Callable[..., tuple[Array, Array]]]:
    """The functions (blocks, mixings, x, context) -> log_prob and (blocks, mixings, z, context) -> x, log_det."""
    import jax.numpy as jnp

    kept, eps = (flow.features + 1) // 2, flow.norm_eps

    def log_prob(blocks: Tree, mixings: Tree, x: Array, context: Array) -> Array:
        log_det = 0.0
        for block, (matrix, mixing_log_det) in zip(blocks, mixings, strict=True):
            x = x @ matrix
            inputs = jnp.concatenate([x[:, :kept], context], axis=1)
            log_scale, shift = (_network(block[name], inputs, eps) for name in ("log_scale", "shift"))
            x = jnp.concatenate([x[:, :kept], (x[:, kept:] - shift) * jnp.exp(-log_scale)], axis=1)
            log_det += mixing_log_det - log_scale.sum(1)
        return log_det - 0.5 * (x**2 + jnp.log(2 * jnp.pi)).sum(1)

    def to_data(blocks: Tree, mixings: Tree, z: Array, context: Array) -> tuple[Array, Array]:
        log_det = jnp.zeros(len(z))
        for block, (matrix, mixing_log_det) in reversed(list(zip(blocks, mixings, strict=True))):
            inputs = jnp.concatenate([z[:, :kept], context], axis=1)
            log_scale, shift = (_network(block[name], inputs, eps) for name in ("log_scale", "shift"))
            z = jnp.concatenate([z[:, :kept], z[:, kept:] * jnp.exp(log_scale) + shift], axis=1) @ matrix
            log_det += mixing_log_det + log_scale.sum(1)
        return z, log_det

    return log_prob, to_data


def _to_jax(*inputs: torch.Tensor) -> tuple[Array, ...]:
    import jax.numpy as jnp

    return tuple(jnp.asarray(tensor.numpy()) for tensor in inputs)


def _to_torch(result: Any) -> Any:
    import jax

    return jax.tree.map(lambda array: torch.from_numpy(np.array(array)), result)


def inference(function: Callable[..., Any], *weights: Tree, constants: bool = False) -> Implementation:
    """A function of weights and inputs, jitted, with the weights as arguments or as constants."""
    import jax

    jitted = jax.jit(partial(function, *weights)) if constants else partial(jax.jit(function), *weights)
    return Implementation(lambda *inputs: jax.block_until_ready(jitted(*inputs)), arguments=_to_jax, result=_to_torch)


def _acting(problem: FlowProblem, function: Callable[..., Any], *weights: Tree) -> Implementation:
    return inference(function, *weights, constants=problem.batch == 1)


def log_prob(problem: FlowProblem) -> Implementation:
    """The density, jitted."""
    start_client(torch.get_num_threads())
    density, _ = _functions(problem.flow)
    return _acting(problem, density, _parameters(problem.flow), _composed(problem.flow, inverse=False))


def inverse(problem: FlowProblem) -> Implementation:
    """The inverse, jitted."""
    start_client(torch.get_num_threads())
    _, to_data = _functions(problem.flow)
    return _acting(problem, to_data, _parameters(problem.flow), _composed(problem.flow, inverse=True))


def denoised_action(problem: FlowProblem) -> Implementation:
    """Inverse, density and `jax.grad` of the latter, jitted together."""
    start_client(torch.get_num_threads())
    act, weights = denoised(problem.flow)
    return _acting(problem, act, *weights)


def denoised(flow: CouplingFlow) -> tuple[Callable[..., Array], tuple[Tree, ...]]:
    """The function (*weights, noise, context) -> action, and its weights."""
    import jax

    density, to_data = _functions(flow)

    def act(blocks: Tree, mixings: Tree, inverses: Tree, noise: Array, context: Array) -> Array:
        x, _ = to_data(blocks, inverses, noise, context)
        return x + SIGMA**2 * jax.grad(lambda x: density(blocks, mixings, x, context).sum())(x)

    return act, (_parameters(flow), *(_composed(flow, inverse) for inverse in (False, True)))


def _matrix(value: torch.Tensor) -> torch.Tensor:
    """A weight as PyTorch keeps it, (outputs, inputs); vectors stay."""
    return value.T if value.ndim == 2 else value


class _Training:
    """Parameters and optimiser state that one jitted, donating function carries forward.

    Args:
        blocks: the parameters.
        density: (blocks, x, context) -> log_prob.
        named: from a tree like the parameters to tensors under nfkern's names and in its shapes.
    """

    def __init__(self, blocks: Tree, density: Callable[..., Array], named: Callable[[Tree], Named]) -> None:
        import jax
        import optax

        optimizer = optax.adamw(LEARNING_RATE, b1=_FIRST_MOMENT_DECAY, weight_decay=WEIGHT_DECAY)

        def loss(blocks: Tree, x: Array, context: Array) -> Array:
            return -density(blocks, x, context).mean()

        def step(blocks: Tree, state: Tree, x: Array, context: Array) -> tuple[Tree, Tree, Array]:
            value, gradients = jax.value_and_grad(loss)(blocks, x, context)
            updates, state = optimizer.update(gradients, state, blocks)
            return optax.apply_updates(blocks, updates), state, value

        self.step = jax.jit(step, donate_argnums=(0, 1))
        self.blocks, self.named = blocks, named
        self.state = jax.jit(optimizer.init)(self.blocks)
        self.steps = 0

    def __call__(self, x: Array, context: Array) -> Array:
        """Take the step; the loss before it."""
        import jax

        # All that the step computes, not its loss alone, or the next call would pay for this one.
        self.blocks, self.state, loss = jax.block_until_ready(self.step(self.blocks, self.state, x, context))
        self.steps += 1
        return loss

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradient of the first step, of which AdamW's first moment is then a multiple."""
        if self.steps != 1:
            raise ValueError(f"gradients: expected one step, got {self.steps}")
        moments = self.named(_to_torch(self.state[0].mu))
        return {name: moment / (1 - _FIRST_MOMENT_DECAY) for name, moment in moments.items()}


def _named(flow: CouplingFlow, blocks: Tree) -> Named:
    """A tree like the parameters, in PyTorch's tensors, under nfkern's names and in its shapes."""
    found, kept = {"mixing_lu": torch.stack([block["lu"] for block in blocks])}, (flow.features + 1) // 2
    for name in _LAYERS:
        for part in ("weight", "bias"):
            pairs = [torch.stack([_matrix(b[net][name][part]) for net in ("log_scale", "shift")]) for b in blocks]
            found[f"{name}_{part}"] = torch.stack(pairs)
    if flow.context_weight is not None:
        found["context_weight"] = found["input_weight"][..., kept:]
        found["input_weight"] = found["input_weight"][..., :kept]
    return found


def training_step(problem: FlowProblem) -> Implementation:
    """Value, gradient and AdamW in one jitted function."""
    start_client(torch.get_num_threads())
    density, _ = _functions(problem.flow)
    permutation = problem.flow.permutation.numpy()

    def mixed(blocks: Tree, x: Array, context: Array) -> Array:
        return density(blocks, _mixings(blocks, permutation), x, context)

    return training(_parameters(problem.flow), mixed, partial(_named, problem.flow))


def training(blocks: Tree, density: Callable[..., Array], named: Callable[[Tree], Named]) -> Implementation:
    """Steps of a density (blocks, x, context) -> log_prob; see `_Training`."""
    steps = _Training(blocks, density, named)
    return Implementation(steps, steps.gradients, arguments=_to_jax, result=_to_torch)


BUILDERS: Mapping[str, Builder] = {
    "log_prob": log_prob,
    "inverse": inverse,
    "denoised_action": denoised_action,
    "training_step": training_step,
}
