"""What samples are made of: how many there are, and their noise."""

from typing import Any

import torch

from nfkern.arguments import number, whole


def sizes(sample_shape: Any) -> tuple[int, ...]:
    """The leading shape of samples, from a tuple or list of ints.

    Raises:
        TypeError: it is neither.
        ValueError: a size is no int, or negative.
    """
    if not isinstance(sample_shape, tuple | list):
        raise TypeError(f"sample_shape: expected a tuple of ints, got {type(sample_shape).__name__}")
    try:
        return tuple(whole("sample_shape", size) for size in sample_shape)
    except ValueError:
        raise ValueError(f"sample_shape: expected ints >= 0, got {sample_shape}") from None


def draw(
    shape: tuple[int, ...],
    like: torch.Tensor,
    generator: torch.Generator | None,
    temperature: float,
    deterministic: bool,
) -> torch.Tensor:
    """Noise N(0, temperature^2), or zeros where it is deterministic, with a tensor's dtype and device.

    Raises:
        ValueError: the temperature is no finite number, or negative.
    """
    temperature = number("temperature", temperature)
    if deterministic:
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    # Even generator=None picks the overload that takes no symbolic shapes, which torch.compile needs.
    source: dict[str, Any] = {} if generator is None else {"generator": generator}
    return temperature * torch.randn(shape, **source, dtype=like.dtype, device=like.device)
