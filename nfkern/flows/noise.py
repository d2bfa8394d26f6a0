"""Number and noise of samples."""

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
