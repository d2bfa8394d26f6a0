"""Nested dicts and lists of arrays as one dict of tensors, and checks of its names and shapes."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

MOST_ENTRIES = 100_000
"""Entries of nested dicts that are looked at: a few bytes of a pickle can claim any number."""

Tensors = dict[str, torch.Tensor]


def flat(origin: str, tree: Any, most: int | None = None) -> Tensors:
    """Arrays in nested dicts, lists and tuples by their names joined by dots; other leaves are left out.

    Args:
        origin: where the tree is from, for messages.
        tree: the dicts.
        most: bytes that the arrays may have together; None for no limit.

    Raises:
        ValueError: too many entries or bytes, a name twice, or an array that is complex, sparse or without values.
    """
    found, stack, entries, size = Tensors(), [("", tree)], 0, 0
    while stack:
        name, value = stack.pop()
        entries += 1
        if entries > MOST_ENTRIES:
            raise ValueError(f"source: expected at most {MOST_ENTRIES} entries, got more in {origin}")
        prefix = f"{name}." if name else ""
        if isinstance(value, Mapping):
            stack += [(f"{prefix}{key}", each) for key, each in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(f"{prefix}{index}", each) for index, each in enumerate(value)]
        elif (tensor := _tensor(origin, name, value)) is not None:
            size += tensor.numel() * tensor.element_size()
            if most is not None and size > most:
                raise ValueError(f"source: expected {most} bytes at most, got more up to {name} in {origin}")
            if name in found:
                raise ValueError(f"source: expected one array called {name}, got two in {origin}")
            found[name] = tensor
    return dict(reversed(found.items()))


def _tensor(origin: str, name: str, value: Any) -> torch.Tensor | None:
    if not isinstance(value, torch.Tensor):
        if not hasattr(value, "__array__"):
            return None
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"source: expected an array of numbers, got dtype {array.dtype} for {name} in {origin}")
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    if value.layout != torch.strided or value.is_complex() or value.is_quantized or value.is_meta:
        raise ValueError(f"source: expected a dense array of real numbers, got another for {name} in {origin}")
    return value.detach()


def size_of(tensors: Tensors, name: str, dims: int) -> tuple[int, ...]:
    """Shape of an array that has to be there.

    Raises:
        ValueError: it is missing, has another number of dimensions, or is empty.
    """
    if name not in tensors:
        raise ValueError(f"source: missing {name}; it has {shortened(tensors)}")
    shape = tuple(tensors[name].shape)
    if len(shape) != dims or not all(shape):
        raise ValueError(f"source: expected {dims} dimensions of 1 or more for {name}, got shape {shape}")
    return shape


def check(what: str, tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse arrays that are not those of a model.

    Raises:
        ValueError: names are missing or unknown, shapes differ, or values are not finite.
    """
    missing, unknown = shapes.keys() - tensors.keys(), tensors.keys() - shapes.keys()
    if missing or unknown:
        raise ValueError(f"source: not {what}; missing {shortened(missing)}, unknown {shortened(unknown)}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"source: expected shape {shape} for {name}, got {tuple(tensors[name].shape)}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"source: expected finite values, got NaN or infinity in {name}")


def shortened(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, in order, the first of them where there are many."""
    found = sorted(names)
    rest = f" and {len(found) - most} more" if len(found) > most else ""
    return f"[{', '.join(found[:most])}]{rest}" if found else "none"


def below(tensors: Tensors, prefix: str) -> Tensors:
    """Arrays whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def prefixes(tensors: Iterable[str], ending: str) -> list[str]:
    """Beginnings of the names that end so, as whole words between dots."""
    return [name[: len(name) - len(ending)] for name in tensors if re.search(rf"(^|\.){re.escape(ending)}$", name)]


def numbers(tensors: Iterable[str], pattern: str) -> int:
    """How many different numbers stand in the names, where the pattern's group is."""
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def common_dtype(tensors: Iterable[torch.Tensor]) -> torch.dtype:
    """float64 if an array is in it, else float32, which has all values of 16 bits.

    Raises:
        ValueError: an array is not in a floating-point dtype.
    """
    dtypes = {tensor.dtype for tensor in tensors}
    if any(not dtype.is_floating_point for dtype in dtypes):
        raise ValueError(f"source: expected weights in floating-point dtypes, got {sorted(map(str, dtypes))}")
    return torch.float64 if torch.float64 in dtypes else torch.float32
