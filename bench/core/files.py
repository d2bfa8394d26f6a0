"""Files of results: replaced in one step, and asked for before anything is measured."""

import os
from pathlib import Path

from nfkern.errors import UserError

# Resolved: nfkern/bench is a link in a checkout.
RESULTS = Path(__file__).resolve().parents[1] / "results"
"""The records that come with the package."""


def replace_text(path: Path, text: str) -> None:
    """Replace the file, so that an interruption leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def check_writable(path: Path, flag: str = "--out") -> None:
    """Find out whether `replace_text` could write there; the file itself is left alone.

    Raises:
        UserError: it is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise UserError(f"{flag}: expected a file, got the folder {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _partial(path).touch()
        _partial(path).unlink()
    except OSError as error:
        raise UserError(f"{flag}: {path} cannot be written ({error})") from None


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")
