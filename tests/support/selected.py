"""Parameters of which `make test` takes a few, and `make test-all` the rest."""

from collections.abc import Iterable
from typing import Any

import pytest


def selected(values: Iterable[Any], kept: Iterable[Any], part: str) -> list[Any]:
    """All values for `pytest.mark.parametrize`; those that are not kept belong to a part of the exhaustive tests.

    Args:
        values: of the parameter, or tuples of several parameters' values.
        kept: some of them.
        part: of `tests/changed_parts.py`.
    """
    values, kept = list(values), list(kept)
    if unknown := [value for value in kept if value not in values]:
        raise ValueError(f"kept: expected some of the values, got {unknown}")
    return [value if value in kept else exhaustive(value, part) for value in values]


def exhaustive(value: Any, part: str) -> Any:
    """A value, or a tuple of several parameters' values, of the exhaustive tests."""
    given = value if isinstance(value, tuple) else (value,)
    return pytest.param(*given, marks=pytest.mark.exhaustive(part=part))
