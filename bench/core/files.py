"""Files of results, which are asked for before anything is measured."""

import tempfile
from importlib.util import find_spec
from pathlib import Path

from nfkern.errors import UserError, reason
from nfkern.host.packages import install_command

# Resolved: nfkern/bench is a link in a checkout.
RESULTS = Path(__file__).resolve().parents[1] / "results"
"""The records that come with the package."""


def missing_for_page() -> str | None:
    """Return the packages that a page needs and that are not installed, and the command that does it; None for none."""
    missing = [name for name in ("msgspec", "polars", "jinja2", "vl_convert") if find_spec(name) is None]
    return f"{', '.join(missing)}: `{install_command(*missing)}`" if missing else None


def check_writable(path: Path, flag: str = "--out") -> None:
    """Find out whether a file could be written there; the file itself is left alone.

    Raises:
        UserError: it is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise UserError(f"{flag}: expected a file, got the folder {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UserError(f"{flag}: {path} cannot be written ({reason(error)})") from None
