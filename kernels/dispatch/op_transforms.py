"""Ops under the transforms of `torch.func` and forward-mode AD: choice of the kernel, and calls with mapped rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils._pytree import tree_map_only


@dataclass(frozen=True)
class Rows:
    """Axes of rows that do not see each other, without seeds: `torch.vmap` over rows alone makes a call with more rows.

    Attributes:
        arguments: axis of the rows, by the argument's place. All other arguments belong to all rows.
        results: axis of the rows, by result; None for one that is empty once the arguments are prepared.
        groups: place of an argument whose axis 0 has groups of rows; row r sees group `r // (rows / groups)`.
        prepare: of an op's arguments, those of a call that more rows can join; None if there is none.
    """

    arguments: Mapping[int, int]
    results: tuple[int | None, ...]
    groups: int | None = None
    prepare: Callable[[tuple[Any, ...]], tuple[Any, ...] | None] = field(default=lambda args: args)


def in_transform(arguments: Iterable[Any]) -> bool:
    """True inside a transform of `torch.func`, or if forward-mode AD has tangents of the arguments."""
    return torch._C._are_functorch_transforms_active() or has_tangents(arguments)


def through_definition(
    name: str, plain: Callable[..., Any], definition: Callable[..., Any] | None
) -> Callable[..., Any]:
    """An op's kernel for autograd, which in `torch.func` and with forward-mode AD runs the definition instead.

    A gradient that is an autograd.Function of its own has no tangents, and none of a second order: the results would
    pass for constants. What the definition consists of has all derivatives of every order.
    """

    def kernel(keyset: Any, *args: Any) -> Any:
        # Under `torch.vmap` alone, autograd's turn comes below it, where no transform is left.
        transformed = torch._C._are_functorch_transforms_active()
        tracked = transformed and torch.is_grad_enabled() and torch._C._any_requires_grad(*args)
        if not tracked and not has_tangents(args):
            return plain(keyset, *args)
        if definition is None:
            raise RuntimeError(f"nfkern: {name} is not differentiable; detach its inputs")
        return definition(*args)

    return kernel


def has_tangents(arguments: Iterable[Any]) -> bool:
    """True if forward-mode AD, of `torch.autograd.forward_ad` or `torch.func.jvp`, has tangents of an argument."""
    if forward_ad._current_level < 0:
        return False
    tensors = (argument for argument in arguments if isinstance(argument, torch.Tensor))
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def vmap_rule(op: Any, rows: Rows | None) -> Callable[..., Any]:
    """More rows where only rows are mapped; else one more seed dimension.

    What is not mapped is the same for every seed.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        if rows is not None:
            by_row = {*rows.arguments, rows.groups}
            mapped = {place for place, dim in enumerate(in_dims) if dim is not None}
            prepared = rows.prepare(args) if mapped <= by_row else None
            if prepared is not None:
                return _over_more_rows(op, rows, info.batch_size, in_dims, prepared)

        def stacked(arg: Any, dim: int | None) -> Any:
            if not isinstance(arg, torch.Tensor):
                return arg
            return arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)

        results = op(*map(stacked, args, in_dims))
        return results, tree_map_only(torch.Tensor, lambda _: 0, results)

    return rule


def _over_more_rows(
    op: Any, rows: Rows, size: int, in_dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[Any, Any]:
    """One call for all of `size` mapped calls: its results, and where these have the mapped dimension.

    Groups that are the same for all of them stay as they are: then a row's copies lie side by side, in its group.
    """
    outside, joined = rows.groups is None or in_dims[rows.groups] is not None, list(args)

    def join(place: int, axis: int) -> None:
        arg, dim, at = args[place], in_dims[place], axis if outside else axis + 1
        moved = arg.unsqueeze(at) if dim is None else arg.movedim(dim, at)
        shape = list(moved.shape)
        shape[at] = size
        joined[place] = moved.expand(shape).flatten(axis, axis + 1)

    for place, axis in rows.arguments.items():
        join(place, axis)
    if outside and rows.groups is not None:
        join(rows.groups, 0)

    def part(result: torch.Tensor, axis: int | None) -> tuple[torch.Tensor, int | None]:
        if axis is None:
            return result, None
        each = result.shape[axis] // size
        return (
            (result.unflatten(axis, (size, each)), axis)
            if outside
            else (result.unflatten(axis, (each, size)), axis + 1)
        )

    results = op(*joined)
    if isinstance(results, torch.Tensor):
        return part(results, rows.results[0])
    parts, dims = zip(*map(part, results, rows.results), strict=True)
    return parts, dims
