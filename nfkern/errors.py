"""Errors that a command shows to its user in one line, and help for their messages."""

import difflib
import re
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """Error that the user can mend: the message says what was expected, what came, and what to do. Exit code 2."""


def reason(error: Exception) -> str:
    """Words of an error for a message that names the file: the system's without their number and their path."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def closest(typed: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant, by initials (lr for learning-rate), beginning, words or letters of any case."""
    typed, spelled = typed.lower(), {name.lower(): name for name in names}
    words = {name: re.split("[-_ .]", name) for name in spelled}
    initials = [name for name, parts in words.items() if len(parts) > 1 and "".join(p[:1] for p in parts) == typed]
    beginning = [name for name in words if typed and name.startswith(typed)]
    containing = [name for name, parts in words.items() if set(re.split("[-_ .]", typed)) <= set(parts)]
    similar = difflib.get_close_matches(typed, containing, n=1, cutoff=0) or difflib.get_close_matches(
        typed, words, n=1
    )
    return next((spelled[name] for name in [*initials, *beginning, *similar]), None)


def check_least(options: Mapping[str, float | None], least: float = 1) -> None:
    """Refuse numbers below `least`, and NaN; None passes.

    Raises:
        UserError: a number is too small; the message names its option.
    """
    for option, value in options.items():
        if value is not None and not value >= least:
            raise UserError(f"--{option.replace('_', '-')}: expected at least {least}, got {value}")
