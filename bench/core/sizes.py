"""Equal size: the width at which a network has as many numbers as another."""

from collections.abc import Callable

PARAMETERS_WITHIN = 0.1
"""Largest relative difference of a number of parameters from what was asked for."""


def nearest_width(count: Callable[[int], int], wanted: int) -> int:
    """The argument of an increasing function at which it comes nearest to `wanted`.

    Raises:
        ValueError: no argument brings it within `PARAMETERS_WITHIN`.
    """
    low, high = 1, 2
    # Doubling first: the networks of a wide guess take seconds to make.
    while count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= wanted else (low, middle)
    width = min((low, high), key=lambda each: abs(count(each) - wanted))
    if abs(count(width) - wanted) > PARAMETERS_WITHIN * wanted:
        raise ValueError(
            f"expected {wanted} within {PARAMETERS_WITHIN:.0%}; the nearest width, {width}, has {count(width)}"
        )
    return width
