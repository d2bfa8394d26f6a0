"""Checks of arguments: numbers of Python or NumPy, returned as Python's."""

import math
import numbers
import operator
from typing import Any

import numpy as np
import torch


def whole(name: str, value: Any, least: int = 0) -> int:
    """Return an argument that is a whole number as an int.

    Args:
        name: of the argument, for the message.
        value: an int, a NumPy integer or, while compiling, a symbolic one.
        least: the smallest that is allowed.

    Raises:
        ValueError: it is not a whole number, or too small.
    """
    if isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected an int >= {least}, got {value!r}")
    return operator.index(value)


def number(
    name: str, value: Any, expected: str = "a finite number >= 0", high: float = math.inf, *, above: bool = False
) -> float:
    """Return an argument that is a number >= 0 (with `above`, > 0) and less than `high` as a float.

    Raises:
        ValueError: it is not a number, or out of range; the message says what was expected.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not (value > 0 if above else value >= 0) or not value < high:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """Return an argument that is a truth value of Python or NumPy as a bool.

    Raises:
        ValueError: it is not a truth value; the text "false" would count as true.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Shape of an object, () if it has none, for messages about arguments of any type."""
    return tuple(getattr(tensor, "shape", ()))
