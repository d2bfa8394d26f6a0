"""Checks that ops share: every error names the argument, what was expected and what came."""

import math
from collections.abc import Sequence
from typing import Any

import torch

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_tensor(name: str, tensor: Any, shape: Sequence[int | str]) -> None:
    """Refuse anything but a dense tensor of this shape.

    Args:
        name: of the argument.
        tensor: what was passed for it.
        shape: sizes, or the names of those that may be any.

    Raises:
        TypeError: it is no tensor, or not dense.
        ValueError: it has another shape.
    """
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {tensor.layout}")
    fits = tensor.ndim == len(shape) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, shape))
        raise ValueError(f"{name}: expected shape ({wanted}{',' * (len(shape) == 1)}), got {tuple(tensor.shape)}")


def check_floating(name: str, tensor: torch.Tensor) -> None:
    """Refuse dtypes other than the floating ones of 16 to 64 bits.

    Raises:
        TypeError: it has another one.
    """
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name}: expected a floating dtype, got {tensor.dtype}")


def check_like(
    name: str, tensor: torch.Tensor, like: torch.Tensor, of: str = "x", dtype: torch.dtype | None = None
) -> None:
    """Refuse a dtype or device other than those of `like`, called `of` in messages, or a dtype other than `dtype`.

    Raises:
        TypeError: it has another one.
    """
    wanted = like.dtype if dtype is None else dtype
    if tensor.dtype != wanted or tensor.device != like.device:
        raise TypeError(f"{name}: expected {wanted} on {like.device} as {of}, got {tensor.dtype} on {tensor.device}")


def check_norm_eps(norm_eps: float) -> None:
    """Refuse an epsilon that is not a finite number above 0.

    Raises:
        ValueError: it is no finite number above 0.
    """
    if not 0 < norm_eps < math.inf:
        raise ValueError(f"norm_eps: expected a finite number > 0, got {norm_eps!r}")


def check_scale_bound(scale_bound: float | None, dtype: torch.dtype) -> None:
    """Refuse a bound that is neither None nor a positive number of `dtype`.

    Raises:
        ValueError: it is neither None nor a finite number above 0.
    """
    limits = torch.finfo(dtype)
    if scale_bound is not None and not limits.tiny <= scale_bound <= limits.max:
        raise ValueError(f"scale_bound: expected None or a number > 0, got {scale_bound!r}")


def check_compute_dtype(compute_dtype: torch.dtype | None) -> None:
    """Refuse a dtype in which no products are taken.

    Raises:
        ValueError: it is neither None nor a floating dtype.
    """
    if compute_dtype is not None and compute_dtype not in FLOATING:
        known = ", ".join(map(str, FLOATING))
        raise ValueError(f"compute_dtype: expected None or one of {known}, got {compute_dtype}")


def check_groups(name: str, groups: int, rows: int, shape: Sequence[int]) -> None:
    """Refuse groups that do not divide the rows.

    Raises:
        ValueError: they do not.
    """
    if rows % groups if groups else rows:
        raise ValueError(f"{name}: expected groups dividing {rows} rows, got {groups} of shape {tuple(shape)}")
