"""Shapes and noise of samples."""

import operator
from collections.abc import Sequence
from typing import Any

import torch

from nfkern.arguments import number, whole


def sizes(sample_shape: Any) -> tuple[int, ...]:
    """The leading shape of samples, from a tuple or list of ints.

    Raises:
        TypeError: it is neither of them.
        ValueError: a size is not an int, or negative.
    """
    if not isinstance(sample_shape, tuple | list):
        raise TypeError(f"sample_shape: expected a tuple of ints, got {type(sample_shape).__name__}")
    try:
        return tuple(whole("sample_shape", size) for size in sample_shape)
    except ValueError:
        raise ValueError(f"sample_shape: expected ints >= 0, got {sample_shape}") from None


def as_shape(shape: Any) -> tuple[Any, ...]:
    """A sequence of sizes as a tuple; one size n as (n,)."""
    try:
        return tuple(shape)
    except TypeError:
        return (shape,)


def expanded_sizes(shape: Any, own: Sequence[int]) -> tuple[int, ...]:
    """The sizes of a batch shape to expand to, with those of the distribution's own one in the place of -1.

    Raises:
        TypeError: a size is not an int.
    """
    try:
        given = tuple(operator.index(size) for size in as_shape(shape))
    except TypeError:
        raise TypeError(f"batch_shape: expected ints, got {shape!r}") from None
    filled = (-1,) * (len(given) - len(own)) + tuple(own)
    return tuple(mine if size == -1 else size for size, mine in zip(given, filled, strict=False))


def given_or_drawn(
    shape: tuple[int, ...],
    like: torch.Tensor,
    *,
    noise: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    deterministic: bool = False,
    **options: Any,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Noise of a shape, and the options that are not about noise.

    Unless `noise` is given, it is N(0, temperature^2), or zeros if deterministic, with the dtype and device of `like`.

    Raises:
        TypeError: `noise` is not a tensor.
        ValueError: `noise` has another shape, or the temperature is not a finite number >= 0.
    """
    if noise is not None:
        if not isinstance(noise, torch.Tensor):
            raise TypeError(f"noise: expected a torch.Tensor, got {type(noise).__name__}")
        if tuple(noise.shape) != shape:
            raise ValueError(f"noise: expected shape {shape}, got {tuple(noise.shape)}")
        return noise, options
    temperature = number("temperature", temperature)
    if deterministic:
        return torch.zeros(shape, dtype=like.dtype, device=like.device), options
    # Even generator=None selects an overload without symbolic shapes, which torch.compile needs.
    source: dict[str, Any] = {} if generator is None else {"generator": generator}
    return temperature * torch.randn(shape, **source, dtype=like.dtype, device=like.device), options
