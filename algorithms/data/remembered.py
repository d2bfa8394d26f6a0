"""Checks of a whole file, made once in a process and remembered while the file stays as it is."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

# A file can change twice within one tick of its time stamp, at most two seconds long on the file systems in use.
TICK_NS = 2_000_000_000

Result = TypeVar("Result")
_results: dict[tuple[str, str], tuple[tuple[int, int, int], Any]] = {}


def once(path: Path, what: str, check: Callable[[], Result]) -> Result:
    """The result of a check of a file, or the earlier one for the same path, inode, size and time.

    Args:
        path: the file.
        what: names the check.
        check: makes it.
    """
    stat = path.stat()
    stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    key = (str(path.resolve()), what)
    if key in _results and _results[key][0] == stamp:
        found: Result = _results[key][1]
        return found
    result = check()
    if time.time_ns() - stat.st_mtime_ns > TICK_NS:
        _results[key] = (stamp, result)
    return result
