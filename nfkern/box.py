"""The box (-1, 1)^D of a bounded flow: data are x = tanh(u)."""

import math

import torch
from torch.nn.functional import softplus


def inverse(x: torch.Tensor) -> torch.Tensor:
    """Inverse of tanh; the faces of the box, where it is infinite, are moved inside by one rounding step."""
    limit = 1 - torch.finfo(x.dtype).eps
    return torch.atanh(x.clamp(-limit, limit))


def log_det(u: torch.Tensor) -> torch.Tensor:
    """`sum log(1 - tanh(u)^2)` over an event, (rows, *event) -> (rows), without cancellation."""
    return 2 * (math.log(2) - u - softplus(-2 * u)).flatten(1).sum(1)


def score(u: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
    """Score of tanh(u): `(score_u + 2 tanh u) / (1 - tanh(u)^2)`."""
    return (score + 2 * torch.tanh(u)) * torch.cosh(u).square()
