"""A leading seed dimension on all of an op's tensors, for `torch.vmap` and for training several seeds at once."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only


def over_seeds(function: Callable[..., Any], rank: int | None) -> Callable[..., Any]:
    """Return a kernel for one seed that also takes a leading seed dimension on every tensor: seed by seed, stacked."""

    @functools.wraps(function)
    def looped(*args: Any) -> Any:
        if rank is None or args[0].ndim <= rank:
            return function(*args)
        results = [looped(*of_seed(args, seed)) for seed in range(args[0].shape[0])]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results)
        return tuple(torch.stack(each) for each in zip(*results, strict=True))

    return looped


def fake_over_seeds(fake: Callable[..., Any], rank: int | None) -> Callable[..., Any]:
    """Do as `over_seeds` for a fake kernel: every seed's results have the first one's shapes."""

    def stacked(*args: Any) -> Any:
        if rank is None or args[0].ndim <= rank:
            return fake(*args)
        results = stacked(*of_seed(args, 0))
        return tree_map_only(torch.Tensor, lambda each: each.new_empty((args[0].shape[0], *each.shape)), results)

    return stacked


def of_seed(args: tuple[Any, ...], seed: int) -> list[Any]:
    """One seed's arguments."""
    return [arg.select(0, seed) if isinstance(arg, torch.Tensor) else arg for arg in args]
