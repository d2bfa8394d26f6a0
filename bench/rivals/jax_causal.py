"""The causal flow in JAX: the inverse is a `lax.scan` over positions, with cached keys and values.

Written from the flow's definition; it shares no line with nfkern's flow or the eager one. Contexts are added to tokens.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from nfkern import CausalFlow
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.causal_problem import CausalProblem
from nfkern.bench.rivals import jax_jit

# jax is imported by the functions below: the registry must be readable where it is not installed.

Tree = Any
Array = Any

_PRODUCTS = ("qkv", "projection", "up", "down")
_NORMS = ("attention_norm", "mlp_norm")


def parameters(flow: CausalFlow) -> Tree:
    """Blocks of arrays under nfkern's names; weights of products are (inputs, outputs)."""
    import jax.numpy as jnp

    assert flow.context_weight is not None

    def array(tensor: Any) -> Array:
        return jnp.asarray(tensor.detach().numpy())

    def layer(k: int, i: int) -> Tree:
        found = {f"{name}_weight": array(getattr(flow, f"{name}_weight")[k, i].T) for name in _PRODUCTS}
        found |= {f"{name}_weight": array(getattr(flow, f"{name}_weight")[k, i]) for name in _NORMS}
        return found | {f"{name}_bias": array(getattr(flow, f"{name}_bias")[k, i]) for name in (*_PRODUCTS, *_NORMS)}

    config = flow.config
    return [
        {
            "input_weight": array(flow.get_parameter("input_weight")[k].T),
            "input_bias": array(flow.input_bias[k]),
            "context_weight": array(flow.context_weight[k].T),
            "position": array(flow.get_parameter("position")[k]),
            "layers": [layer(k, i) for i in range(config["layers"])],
            "output_weight": array(flow.get_parameter("output_weight")[k].flatten(0, 1).T),
            "output_bias": array(flow.get_parameter("output_bias")[k].flatten()),
        }
        for k in range(config["blocks"])
    ]


def named(flow: CausalFlow, blocks: Tree) -> dict[str, torch.Tensor]:
    """A tree like the parameters, in PyTorch's tensors, under nfkern's names and in its shapes."""
    found: dict[str, list[torch.Tensor]] = {}
    for block in blocks:
        for name, value in block.items():
            if name != "layers":
                found.setdefault(name, []).append(value.T if name.endswith("_weight") else value)
        for layer in block["layers"]:
            for name, value in layer.items():
                found.setdefault(name, []).append(value.T if value.ndim == 2 else value)
    return {name: torch.stack(each).view_as(flow.get_parameter(name)) for name, each in found.items()}


def _norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    import jax

    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def functions(flow: CausalFlow) -> tuple[Callable[..., Array], Callable[..., tuple[Array, Array]]]:
    """The functions (blocks, x, context) -> log_prob and (blocks, z, context) -> x, log_det."""
    import jax
    import jax.numpy as jnp

    heads, eps = flow.heads, flow.norm_eps

    def split(p: Tree, x: Array) -> tuple[Array, Array, Array]:
        """(batch, S, width) -> queries, keys, values (batch, heads, S, width / heads)."""
        qkv = _norm(x, p["attention_norm_weight"], p["attention_norm_bias"], eps) @ p["qkv_weight"] + p["qkv_bias"]
        batch, length, _ = qkv.shape
        queries, keys, values = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, -1), (2, 3), (0, 2))
        return queries, keys, values

    def attend(p: Tree, x: Array, queries: Array, keys: Array, values: Array, seen: Array) -> Array:
        """The rest of a layer; seen (S, positions) says which positions each query sees."""
        scores = queries @ keys.swapaxes(-1, -2) * queries.shape[-1] ** -0.5
        attended = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ values
        x = x + attended.swapaxes(1, 2).reshape(x.shape) @ p["projection_weight"] + p["projection_bias"]
        up = _norm(x, p["mlp_norm_weight"], p["mlp_norm_bias"], eps) @ p["up_weight"] + p["up_bias"]
        return x + jax.nn.gelu(up, approximate=False) @ p["down_weight"] + p["down_bias"]

    def log_prob(blocks: Tree, x: Array, context: Array) -> Array:
        log_det, length = jnp.zeros(len(x)), x.shape[1] - 1
        for k, block in enumerate(blocks):
            x, position = (x[:, ::-1], block["position"][::-1]) if k % 2 else (x, block["position"])
            added = block["input_bias"] + context @ block["context_weight"]
            hidden = x[:, :-1] @ block["input_weight"] + position[:-1] + added[:, None]
            for p in block["layers"]:
                hidden = attend(p, hidden, *split(p, hidden), jnp.tril(jnp.ones((length, length), bool)))
            log_scale, shift = jnp.split(hidden @ block["output_weight"] + block["output_bias"], 2, axis=-1)
            x = jnp.concatenate([x[:, :1], (x[:, 1:] - shift) * jnp.exp(-log_scale)], axis=1)
            x, log_det = x[:, ::-1] if k % 2 else x, log_det - log_scale.sum((1, 2))
        return log_det - 0.5 * (x**2 + jnp.log(2 * jnp.pi)).sum((1, 2))

    def to_data(blocks: Tree, z: Array, context: Array) -> tuple[Array, Array]:
        batch, tokens, _ = z.shape
        length, log_det = tokens - 1, jnp.zeros(batch)
        for k, block in reversed(list(enumerate(blocks))):
            z, position = (z[:, ::-1], block["position"][::-1]) if k % 2 else (z, block["position"])
            added = block["input_bias"] + context @ block["context_weight"]
            width = position.shape[1]
            empty = jnp.zeros((2, batch, heads, length, width // heads))

            def step(carry: Any, at: Any, block: Tree = block, added: Array = added) -> Any:
                token, caches = carry
                i, place, noise = at
                hidden, kept = (token @ block["input_weight"] + place + added)[:, None], []
                for p, cache in zip(block["layers"], caches, strict=True):
                    queries, keys, values = split(p, hidden)
                    cache = jax.lax.dynamic_update_slice_in_dim(cache, jnp.stack([keys, values]), i, 3)
                    hidden = attend(p, hidden, queries, cache[0], cache[1], (jnp.arange(length) <= i)[None])
                    kept.append(cache)
                log_scale, shift = jnp.split(hidden[:, 0] @ block["output_weight"] + block["output_bias"], 2, axis=-1)
                token = noise * jnp.exp(log_scale) + shift
                return (token, kept), (token, log_scale.sum(1))

            start = z[:, 0], [empty for _ in block["layers"]]
            steps = jnp.arange(length), position[:-1], jnp.moveaxis(z[:, 1:], 1, 0)
            _, (moved, changes) = jax.lax.scan(step, start, steps)
            x = jnp.concatenate([z[:, :1], jnp.moveaxis(moved, 0, 1)], axis=1)
            z, log_det = x[:, ::-1] if k % 2 else x, log_det + changes.sum(0)
        return z, log_det

    return log_prob, to_data


def log_prob(problem: CausalProblem) -> Implementation:
    """The density, jitted."""
    jax_jit.start_client(torch.get_num_threads())
    return jax_jit.inference(functions(problem.flow)[0], parameters(problem.flow))


def inverse(problem: CausalProblem) -> Implementation:
    """The inverse, jitted."""
    jax_jit.start_client(torch.get_num_threads())
    return jax_jit.inference(functions(problem.flow)[1], parameters(problem.flow))


def training_step(problem: CausalProblem) -> Implementation:
    """Value, gradient and AdamW in one jitted function."""
    jax_jit.start_client(torch.get_num_threads())
    density, _ = functions(problem.flow)
    return jax_jit.training(parameters(problem.flow), density, partial(named, problem.flow))


BUILDERS: Mapping[str, Builder] = {
    "causal_log_prob": log_prob,
    "causal_inverse": inverse,
    "causal_training_step": training_step,
}
