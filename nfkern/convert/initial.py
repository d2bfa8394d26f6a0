"""The mixing matrix that the paper's JAX code starts every block with, drawn anew: its permutation is in no checkpoint.

The code draws an orthogonal matrix from `jax.random.PRNGKey(0)` and factors it, W = P L (U + diag s). It trains L, U
and s, and P stays. JAX drew other numbers before version 0.5, or with `jax_threefry_partitionable` off, than since.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch

Rng = Literal["original", "partitionable"]
"""JAX's way to count random numbers: "original" before version 0.5, "partitionable" since."""

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


class Mixing(NamedTuple):
    """Factors of the first mixing matrix, of D features."""

    permutation: torch.Tensor  # (D), `(P M)[i] = M[permutation[i]]`
    packed: torch.Tensor  # (D, D), L below the diagonal, s on it and U above it


def initial_mixing(features: int, rng: Rng) -> Mixing:
    """Factors of the orthogonal matrix that `jax.nn.initializers.orthogonal` makes of `PRNGKey(0)`."""
    normal = _normal(features * features, rng).reshape(features, features)
    q, r = torch.linalg.qr(torch.from_numpy(normal).double())
    place, lower, upper = torch.linalg.lu(q * r.diagonal().sign())
    return Mixing(place.argmax(1), torch.tril(lower, -1) + upper)


def _normal(count: int, rng: Rng) -> np.ndarray:
    """Standard normal float32 numbers of `PRNGKey(0)`, from uniform ones in (-1, 1) of 23 bits."""
    bits = _bits(count, rng)
    uniform = ((bits >> np.uint32(9)) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
    low = np.nextafter(np.float32(-1), np.float32(0))
    inside = np.maximum(low, uniform * (np.float32(1) - low) + low)
    normal: np.ndarray = (math.sqrt(2) * torch.erfinv(torch.from_numpy(inside).double())).float().numpy()
    return normal


def _bits(count: int, rng: Rng) -> np.ndarray:
    """Random uint32 numbers of `PRNGKey(0)`."""
    if rng == "partitionable":
        high, low = _threefry(np.zeros(count, np.uint32), np.arange(count, dtype=np.uint32))
        mixed: np.ndarray = high ^ low
        return mixed
    half = (count + 1) // 2
    counts = np.zeros(2 * half, np.uint32)
    counts[:count] = np.arange(count, dtype=np.uint32)
    return np.concatenate(_threefry(counts[:half], counts[half:]))[:count]


def _threefry(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 of 20 rounds with the key (0, 0): Salmon et al., "Parallel Random Numbers", 2011."""
    keys = [np.uint32(0), np.uint32(0), np.uint32(0x1BD11BDA)]
    with np.errstate(over="ignore"):
        for index in range(5):
            for rotation in _ROTATIONS[index % 2]:
                high = high + low
                low = ((low << np.uint32(rotation)) | (low >> np.uint32(32 - rotation))) ^ high
            high = high + keys[(index + 1) % 3]
            low = low + keys[(index + 2) % 3] + np.uint32(index + 1)
    return high, low
