r"""The correctness gate: a number is refused unless the result it stands for is right.

The tolerance is derived, never chosen: a variant may be at most twice as far from the float64 result as the naive flow
is in the same inputs' float32, plus a few units of rounding of its own precision,

.. math:: \max|v - r_{64}| \le 2 \max|r_{32} - r_{64}| + 4 \epsilon \sqrt{n} \max|r_{64}|

with n the number of terms that the result sums, and never more than a tenth of the largest entry: the bound of a long
sum in 16 bits would let zeros pass.
"""

import math
from collections.abc import Mapping

import torch

from nfkern.bench.core.declarations import Precision

CAP = 0.1

EPSILON: dict[Precision, float] = {
    "fp64": torch.finfo(torch.float64).eps,
    "fp32": torch.finfo(torch.float32).eps,
    # tf32 keeps ten bits of mantissa, like float16.
    "tf32": torch.finfo(torch.float16).eps,
    "bf16": torch.finfo(torch.bfloat16).eps,
    # A step of a weight, of its row's largest.
    "int8": 1 / 127,
}


def tolerance(exact: torch.Tensor, single: torch.Tensor, epsilon: float, terms: int = 1) -> float:
    """The largest allowed absolute error.

    Args:
        exact: the reference's result in float64.
        single: the reference's result in float32, of the same shape.
        epsilon: rounding unit of the variant's precision.
        terms: how many terms each element of the result sums.
    """
    scale = float(exact.abs().max())
    derived = 2 * float((single.double() - exact).abs().max()) + 4 * epsilon * math.sqrt(terms) * scale
    return min(derived, CAP * scale)


def disagreement(
    name: str, value: torch.Tensor, exact: torch.Tensor, single: torch.Tensor, epsilon: float, terms: int = 1
) -> str | None:
    """Return why `value` cannot stand for `exact`, or None; `name` says in the message which result it is."""
    if value.shape != exact.shape:
        return f"{name}: expected shape {tuple(exact.shape)}, got {tuple(value.shape)}"
    allowed = tolerance(exact, single, epsilon, terms)
    error = float((value.double() - exact).abs().max())
    # Written so that NaN fails.
    if error <= allowed:
        return None
    return f"{name}: error {error:.3g} exceeds the derived tolerance {allowed:.3g}"


def first_disagreement(
    found: Mapping[str, torch.Tensor],
    exact: Mapping[str, torch.Tensor],
    single: Mapping[str, torch.Tensor],
    precision: Precision,
    terms: int,
) -> str | None:
    """Return why results by name cannot stand for those of the reference, or None."""
    if missing := exact.keys() - found.keys():
        return f"results missing: {', '.join(sorted(missing))}"
    for name, wanted in exact.items():
        if reason := disagreement(name, found[name], wanted, single[name], EPSILON[precision], terms):
            return reason
    return None
