"""The causal flow in JAX: the inverse is a `lax.scan` over positions, with cached keys and values."""

from functools import partial
from typing import Any

from nfkern import CausalFlow
from nfkern.bench.core.declarations import Variant
from nfkern.bench.problems.calls import CAUSAL, ENCODED, FLOWS
from nfkern.bench.problems.eager_causal import EagerCausalFlow
from nfkern.bench.rivals.jax_jit import (
    Array,
    Coupling,
    EncodedCoupling,
    JaxFlow,
    Weights,
    build,
    control_loop,
    linear,
    norm,
)

# jax is imported by the functions below: the registry must be readable where it is not installed.


class Causal(JaxFlow):
    """Contexts are added to tokens, and every other block reads these backwards."""

    def __init__(self, flow: CausalFlow) -> None:
        super().__init__(EagerCausalFlow.like(flow), EagerCausalFlow.like(flow), constant=False)
        self.blocks, self.heads, self.eps = range(flow.config["blocks"]), flow.heads, flow.norm_eps
        self.layers = [f"layers.{i}" for i in range(flow.config["layers"])]

    def _block(self, weights: Weights, k: int, context: Array) -> tuple[Weights, Array, Array]:
        """The weights of a block, its positions, and what is added to each token."""
        start = f"blocks.{k}."
        block = {name.removeprefix(start): array for name, array in weights.items() if name.startswith(start)}
        position = block["position"][::-1] if k % 2 else block["position"]
        return block, position, block["input_bias"] + context @ block["context_weight"]

    def _split(self, block: Weights, layer: str, x: Array) -> tuple[Array, Array, Array]:
        """(batch, S, width) -> queries, keys, values (batch, heads, S, width / heads)."""
        import jax.numpy as jnp

        qkv = linear(block, f"{layer}.qkv", norm(block, f"{layer}.attention_norm", x, self.eps))
        queries, keys, values = jnp.moveaxis(qkv.reshape(*x.shape[:2], 3, self.heads, -1), (2, 3), (0, 2))
        return queries, keys, values

    def _attend(self, block: Weights, layer: str, x: Array, split: tuple[Array, Array, Array], seen: Array) -> Array:
        """The rest of a layer; seen (S, positions) says which positions each query sees."""
        import jax
        import jax.numpy as jnp

        queries, keys, values = split
        scores = queries @ keys.swapaxes(-1, -2) * queries.shape[-1] ** -0.5
        attended = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf)) @ values
        x = x + linear(block, f"{layer}.projection", attended.swapaxes(1, 2).reshape(x.shape))
        up = linear(block, f"{layer}.up", norm(block, f"{layer}.mlp_norm", x, self.eps))
        return x + linear(block, f"{layer}.down", jax.nn.gelu(up, approximate=False))

    def log_prob(self, weights: Weights, x: Array, context: Array) -> Array:
        """(batch, T, D), (batch, C) -> (batch,)."""
        import jax.numpy as jnp

        log_det, length = jnp.zeros(len(x)), x.shape[1] - 1
        for k in self.blocks:
            block, position, added = self._block(weights, k, context)
            x = x[:, ::-1] if k % 2 else x
            hidden = x[:, :-1] @ block["input_weight"] + position[:-1] + added[:, None]
            for layer in self.layers:
                split = self._split(block, layer, hidden)
                hidden = self._attend(block, layer, hidden, split, jnp.tril(jnp.ones((length, length), bool)))
            log_scale, shift = jnp.split(linear(block, "output", hidden), 2, axis=-1)
            x = jnp.concatenate([x[:, :1], (x[:, 1:] - shift) * jnp.exp(-log_scale)], axis=1)
            x, log_det = x[:, ::-1] if k % 2 else x, log_det - log_scale.sum((1, 2))
        return log_det - 0.5 * (x**2 + jnp.log(2 * jnp.pi)).sum((1, 2))

    def to_data(self, weights: Weights, z: Array, context: Array) -> tuple[Array, Array]:
        """(batch, T, D), (batch, C) -> (batch, T, D), (batch,)."""
        import jax
        import jax.numpy as jnp

        batch, tokens, _ = z.shape
        length, log_det = tokens - 1, jnp.zeros(batch)
        for k in reversed(self.blocks):
            block, position, added = self._block(weights, k, context)
            z = z[:, ::-1] if k % 2 else z
            empty = jnp.zeros((2, batch, self.heads, length, position.shape[1] // self.heads))

            def step(carry: Any, at: Any, block: Weights = block, added: Array = added) -> Any:
                token, caches = carry
                i, place, noise = at
                hidden, kept = (token @ block["input_weight"] + place + added)[:, None], []
                for layer, cache in zip(self.layers, caches, strict=True):
                    queries, keys, values = self._split(block, layer, hidden)
                    cache = jax.lax.dynamic_update_slice_in_dim(cache, jnp.stack([keys, values]), i, 3)
                    seen = (jnp.arange(length) <= i)[None]
                    hidden = self._attend(block, layer, hidden, (queries, cache[0], cache[1]), seen)
                    kept.append(cache)
                log_scale, shift = jnp.split(linear(block, "output", hidden[:, 0]), 2, axis=-1)
                token = noise * jnp.exp(log_scale) + shift
                return (token, kept), (token, log_scale.sum(1))

            start = z[:, 0], [empty for _ in self.layers]
            steps = jnp.arange(length), position[:-1], jnp.moveaxis(z[:, 1:], 1, 0)
            _, (moved, changes) = jax.lax.scan(step, start, steps)
            x = jnp.concatenate([z[:, :1], jnp.moveaxis(moved, 0, 1)], axis=1)
            z, log_det = x[:, ::-1] if k % 2 else x, log_det + changes.sum(0)
        return z, log_det


VARIANTS = (
    Variant(
        "jax_jit",
        "the flow in JAX, jitted; optax's AdamW",
        {
            **{work: partial(build, Coupling, work) for work in FLOWS},
            **{work: partial(build, EncodedCoupling, work) for work in ENCODED},
            **{work: partial(build, Causal, work) for work in CAUSAL},
            "control_loop": control_loop,
        },
        requires=("jax", "optax"),
        device="cpu",
    ),
)
