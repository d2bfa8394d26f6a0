"""Bounds [-END, END] of every feature of a bounded flow: data are x = tanh(u).

At -1 and 1, u and the density's derivative are infinite, and how near to them a number can be depends on its dtype. So
the bounds are the last float32 numbers inside (-1, 1), in every dtype. Data beyond a bound have the values and the
derivatives of data at that bound. Samples are never beyond.
"""

import math

import torch
from torch.nn.functional import softplus

END = 1 - 2.0**-24
_END_OF_U = math.atanh(END)


def inside(x: torch.Tensor) -> torch.Tensor:
    """Data, with those beyond a bound moved to it; NaN stays."""
    return _moved(x, END)


def inverse(x: torch.Tensor) -> torch.Tensor:
    """Inverse of tanh, for data `inside`."""
    return torch.atanh(x)


def squash(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, *event) -> data x = tanh(u) within the bounds, and log|det dx/du| at x, (rows)."""
    u = _moved(u, _END_OF_U)
    # tanh may round to 1.
    return torch.tanh(u).clamp(-END, END), log_det(u)


def log_det(u: torch.Tensor) -> torch.Tensor:
    """`sum log(1 - tanh(u)^2)` over an event, (rows, *event) -> (rows), without cancellation."""
    return 2 * (math.log(2) - u - softplus(-2 * u)).flatten(1).sum(1)


def score(x: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Score of x = tanh(u), `inside`, from that of u: `(score_u + 2 x) / (1 - x^2)`."""
    return (score + 2 * x) / ((1 - x) * (1 + x))


def _moved(x: torch.Tensor, end: float) -> torch.Tensor:
    """Numbers, with those beyond `end` moved to it; the derivative stays 1, except of infinite numbers."""
    same = torch.nan_to_num(x - x.detach())
    return x.detach().clamp(-end, end) + same
