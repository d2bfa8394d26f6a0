"""The arrays of a source under their names, whatever the file's format."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# A file of a robot's can hold hundreds.
LISTED = 20


@dataclass(frozen=True)
class Leaf:
    """One array of a source, read when it is asked for.

    Attributes:
        shape: rows first.
        dtype: as stored.
        read: reads it.
        problem: says why it cannot be read as numbers; None if it can.
        remark: what its reader has to know, or None.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    problem: str | None = None
    remark: str | None = None

    @classmethod
    def of(cls, array: np.ndarray) -> "Leaf":
        """A leaf of an array in memory."""
        return cls(array.shape, array.dtype, lambda: array)

    @classmethod
    def unreadable(cls, problem: str) -> "Leaf":
        """A leaf that is named and never read."""
        return cls((), np.dtype(object), lambda: np.zeros(0), problem)

    @property
    def size(self) -> int:
        """Numbers in one row."""
        return int(np.prod(self.shape[1:], dtype=int))

    def refusal(self) -> str | None:
        """The reason why its rows are no vectors of numbers; None if they are."""
        if self.problem is not None:
            return self.problem
        if self.dtype.kind not in "fiub":
            return f"{self.dtype}, no numbers" if self.dtype.kind != "O" else "objects or text"
        row = self.shape[1:]
        if not self.shape:
            return "a single number"
        if len(row) > 2 or (len(row) == 2 and self.dtype == np.uint8):
            return "images"
        return None if self.size else "no features"

    def __str__(self) -> str:
        refusal = self.refusal()
        shape = "x".join(map(str, self.shape[1:])) or "1"
        return f"{shape} {self.dtype}" if refusal is None else refusal


Leaves = Mapping[str, Leaf]


def listed(leaves: Leaves) -> str:
    """Their names and shapes, for messages."""
    names = sorted(leaves, key=natural)
    more = [f"and {len(names) - LISTED} more"] if len(names) > LISTED else []
    return ", ".join([f"{name} ({leaves[name]})" for name in names[:LISTED]] + more) or "nothing"


def natural(name: str) -> list[str | int]:
    """The key of an order in which demo_9 comes before demo_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
