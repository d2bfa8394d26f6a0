"""Example arguments of every op, gathered from the `examples.py` of each folder: tests of all ops run on them."""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

Examples = dict[str, tuple[Any, ...]]


def every_example(seed: int = 0) -> Examples:
    """Return small random arguments by op, in float64 on the CPU, the same for the same seed.

    An op's further examples have a variant in their name, as in `coupling_to_data folded`.
    """
    found: Examples = {}
    for file in sorted(Path(__file__).parents[1].glob("*/examples.py")):
        if file.parent != Path(__file__).parent:
            found |= import_module(f"nfkern.kernels.{file.parent.name}.examples").examples(seed)
    return found


def examples(seed: int = 0, variant: str = "") -> Examples:
    """Return the examples of one variant by op: without a name, one for every op."""
    split = {tuple(name.partition(" ")[::2]): arguments for name, arguments in every_example(seed).items()}
    return {op: arguments for (op, of), arguments in split.items() if of == variant}


def normal(seed: int) -> Any:
    """Return a function from a shape to standard normal numbers in float64."""
    return partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
