"""Imports that would write to the terminal."""

import contextlib
import io
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_adroit_notice() -> Iterator[None]:
    """Keep off the terminal what gymnasium-robotics prints when first imported: news about its robot hands."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines(keepends=True):
            if not line.startswith("AdroitHand"):
                sys.stderr.write(line)
