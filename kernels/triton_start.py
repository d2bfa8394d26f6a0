"""How every Triton kernel is launched, and how to see what would be."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Start:
    """A launch as `start` got it."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


_recording: list[Start] | None = None


def start(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Launch a kernel: the one place where it happens."""
    if _recording is None:
        kernel[grid](*args, **options)
    else:
        _recording.append(Start(kernel, grid, args, options))


@contextlib.contextmanager
def recording() -> Iterator[list[Start]]:
    """Inside, launches are listed instead of made: for inspection on machines without a GPU, with meta tensors."""
    global _recording
    before, _recording = _recording, list[Start]()
    try:
        yield _recording
    finally:
        _recording = before


def padded(width: int) -> int:
    """A power of two, at least the 16 that a product wants."""
    return max(16, 1 << (width - 1).bit_length())
