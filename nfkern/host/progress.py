"""Progress bars, which all look the same."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**options: Any) -> "tqdm[Any]":
    """Tqdm's bar, drawn once a second on a terminal and every 30 seconds elsewhere, such as in a log file."""
    interval = 1.0 if sys.stderr.isatty() else 30.0
    return tqdm(dynamic_ncols=True, mininterval=interval, maxinterval=2 * interval, **options)


def leave_out(bar: "tqdm[Any]", seconds: float) -> None:
    """Leave seconds that were spent on something else out of a bar's speed."""
    if not bar.disable:
        bar.start_t += seconds
        bar.last_print_t += seconds
