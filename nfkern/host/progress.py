"""Progress bars, which all look the same."""

import sys
from typing import Any

from tqdm import tqdm


class _Lines(tqdm):  # type: ignore[misc] # it brings no types
    """A bar for files and pipes: a line whenever a terminal's bar would be drawn anew, without control codes."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Write a line; `pos`, the bar's place on a screen, means nothing here."""
        if line := str(self) if msg is None else msg:
            self.fp.write(f"{line}\n")
        # Nothing was drawn that would have to be cleared.
        return False

    def clear(self, nolock: bool = False) -> None:
        """Leave what is written."""

    def close(self) -> None:
        """Write how far it came."""
        if not self.disable:
            self.display()
        super().close()


def progress_bar(**options: Any) -> "tqdm[Any]":
    """Tqdm's bar, drawn once a second on a terminal; elsewhere, such as in a log file, a line every 30 seconds."""
    if sys.stderr.isatty():
        return tqdm(dynamic_ncols=True, mininterval=1.0, maxinterval=2.0, **options)
    return _Lines(mininterval=30.0, maxinterval=60.0, leave=False, **options)


def leave_out(bar: "tqdm[Any]", seconds: float) -> None:
    """Leave seconds that were spent on something else out of a bar's speed."""
    if not bar.disable:
        bar.start_t += seconds
        bar.last_print_t += seconds
