"""What the studies' commands refuse, before they measure anything."""

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nfkern.bench.core.environment import Environment
from nfkern.bench.studies.documents import differences
from nfkern.bench.studies.tables import split_markdown
from nfkern.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def check_names(option: str, wanted: Collection[str], known: Collection[str]) -> None:
    """Refuse an unknown name, or none at all.

    Raises:
        UserError: so it is.
    """
    for name in wanted:
        if name not in known:
            raise UserError(f"--{option}: expected some of {', '.join(known)}, got {name!r}")
    if not wanted:
        raise UserError(f"--{option}: expected at least one")


def check_reports(html: Path | None, tables: Path | None) -> None:
    """Refuse reports that could not be written in the end.

    Raises:
        UserError: matplotlib is missing, or the Markdown file has no marks.
    """
    if html is not None and find_spec("matplotlib") is None:
        raise UserError("--html needs the package matplotlib: `pip install 'nfkern[log]'`")
    if tables is not None:
        split_markdown(tables)


def check_settings(out: Path, there: "DataclassInstance", now: "DataclassInstance") -> None:
    """Refuse to go on with results of other settings.

    Raises:
        UserError: they differ.
    """
    if changed := differences(there, now):
        raise UserError(
            f"{out} was made with other {', '.join(changed)}: repeat its command to go on with it, choose "
            "another --out, or --overwrite it"
        )


def check_environment(out: Path, there: Environment, here: Environment) -> None:
    """Refuse to go on with results of another machine or other versions.

    Raises:
        UserError: they differ.
    """
    if there != here:
        raise UserError(
            f"{out} was measured elsewhere or with other versions, so it cannot be gone on with here: choose "
            "another --out or --overwrite it"
        )


def how_to_go_on(out: Path, overwrite: bool) -> str:
    """What an interrupted study tells its user."""
    without = " without --overwrite" if overwrite else ""
    return f"interrupted; {out} has what is finished: the same command{without} goes on"
