"""Bounds of a flow's data: tanh of every feature, and boxes that it is stretched to.

At -1 and 1, the inverse u of tanh and the density's derivative are infinite, and how near to them a number can be
depends on its dtype. So the bounds are the last float32 numbers inside (-1, 1), in every dtype. Data beyond a bound
have the values and the derivatives of data at that bound. Samples are never beyond.
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import softplus

Bounds = Literal["tanh"] | tuple[tuple[float, ...], tuple[float, ...]]
"""Bounds of a flow: (-1, 1), or the smallest and the largest number of each feature."""

END = 1 - 2.0**-24
_END_OF_U = math.atanh(END)


def checked(bounds: Any, features: int) -> Bounds | None:
    """Return an argument `bounds` with both ends as tuples of a number for each feature.

    Args:
        bounds: None, "tanh", or (low, high), each a number for all features or an array of them.
        features: the size of the data's last dimension.

    Raises:
        ValueError: it is something else, of another size, not finite, or low is not below high, also in float32.
    """
    if bounds is None or (isinstance(bounds, str) and bounds == "tanh"):
        return bounds  # type: ignore[return-value]
    expected = f"None, 'tanh' or (low, high), each a number or {features} of them"
    try:
        if isinstance(bounds, str):
            raise TypeError
        low, high = (_numbers(end, features) for end in bounds)
    except (TypeError, ValueError):
        raise ValueError(f"bounds: expected {expected}, got {bounds!r}") from None
    for index, (least, most) in enumerate(zip(low, high, strict=True)):
        if not torch.tensor([least, most], dtype=torch.float32, device="cpu").isfinite().all():
            raise ValueError(
                f"bounds: expected finite numbers, got {least} and {most} for feature {index}; a flow without bounds "
                "has bounds=None"
            )
        single = inward(least, most, torch.float32)
        if not single[0] < single[1]:
            raise ValueError(f"bounds: expected low < high in float32, got {least} and {most} for feature {index}")
    return low, high


def _numbers(end: Any, features: int) -> tuple[float, ...]:
    """One number for each feature, from a number or as many in a row."""
    found = np.asarray(end.detach().cpu() if isinstance(end, torch.Tensor) else end, np.float64)
    if found.shape not in ((), (features,)):
        raise ValueError
    return tuple(np.broadcast_to(found, (features,)).tolist())


def inward(low: Any, high: Any, dtype: torch.dtype) -> torch.Tensor:
    """Both ends (2, ...) in a dtype, rounded such that they lie within the exact ones."""
    exact = torch.tensor([low, high], dtype=torch.float64, device="cpu")
    ends = exact.to(dtype)
    up = torch.nextafter(ends, torch.full_like(ends, math.inf))
    down = torch.nextafter(ends, torch.full_like(ends, -math.inf))
    return torch.stack(
        [
            torch.where(ends[0].double() < exact[0], up[0], ends[0]),
            torch.where(ends[1].double() > exact[1], down[1], ends[1]),
        ]
    )


def inside(x: torch.Tensor) -> torch.Tensor:
    """Data, with those beyond a bound moved to it; NaN stays."""
    return _moved(x, END)


def inverse(x: torch.Tensor) -> torch.Tensor:
    """Inverse of tanh, for data `inside`."""
    return torch.atanh(x)


def tanh(u: torch.Tensor) -> torch.Tensor:
    """Return the hyperbolic tangent of u, within the bounds."""
    # It may round to 1.
    return torch.tanh(_moved(u, _END_OF_U)).clamp(-END, END)


def squash(u: torch.Tensor, event_rank: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """(*batch, *event) -> data x = tanh(u) within the bounds, and log|det dx/du| at x, (*batch)."""
    u = _moved(u, _END_OF_U)
    return torch.tanh(u).clamp(-END, END), log_det(u, event_rank)


def log_det(u: torch.Tensor, event_rank: int = 1) -> torch.Tensor:
    """`sum log(1 - tanh(u)^2)` over an event, (*batch, *event) -> (*batch), without cancellation."""
    return 2 * (math.log(2) - u - softplus(-2 * u)).flatten(-event_rank).sum(-1)


def score(x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Score of x = tanh(u), `inside`, from that of u: `(score_u + 2 x) / (1 - x^2)`."""
    return (score + 2 * x) / ((1 - x) * (1 + x))


def _moved(x: torch.Tensor, end: float) -> torch.Tensor:
    """Numbers, with those beyond `end` moved to it; the derivative stays 1, except of infinite numbers."""
    same = torch.nan_to_num(x - x.detach())
    return x.detach().clamp(-end, end) + same
