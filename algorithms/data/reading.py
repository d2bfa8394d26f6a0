"""The one reader of dataset files: what it passes, every command can use; what it refuses, none."""

import shlex
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .archive import column_names, intact, read_npz
from .remembered import once

REQUIRED = ("observations", "actions", "terminals")
OUTCOMES = ("rewards", "masks")
# Of two numbers up to this, float32 holds the sum and the difference, which normalisers take.
LARGEST = float(np.finfo(np.float32).max) / 2
# Numbers that one step of a pass over a column holds in memory.
CHUNK_VALUES = 1 << 22


def read_dataset(
    path: Path, *, rewards: bool | None, extras: Iterable[str], memory_map: bool, trusted: bool
) -> dict[str, np.ndarray]:
    """Read the columns of a dataset file that are asked for, and no others.

    Args:
        path: The file.
        rewards: Whether to read rewards and masks, where the file has them; None for where it has both.
        extras: Further columns; those that the file lacks are left out.
        memory_map: Map uncompressed arrays.
        trusted: Whether the file's bytes have been compared with a checksum already.

    Raises:
        ValueError: If the file is no npz file, lacks a column, or has one that is damaged or of other values.
    """
    try:
        present = column_names(path)
    # Whatever a damaged file raises, the answer is the same.
    except Exception as error:
        raise ValueError("not a readable npz file") from error
    missing = [key for key in REQUIRED if key not in present]
    if missing:
        raise ValueError(
            f"lacks {', '.join(missing)}; it holds {', '.join(present) or 'nothing'}: `nfkern data import "
            f"{shlex.quote(str(path))} --name NAME` takes other names and other marks of an episode's end"
        )
    outcomes = [key for key in OUTCOMES if key in present]
    if rewards and len(outcomes) == 1:
        raise ValueError(f"rewards and masks belong together; it holds {outcomes[0]} alone")
    if rewards is False or len(outcomes) == 1:
        outcomes = []
    names = (*REQUIRED, *outcomes, *(key for key in extras if key in present))
    columns = {key: read_column(path, key, memory_map=memory_map, trusted=trusted) for key in names}
    rows = {key: column.shape[:1] for key, column in columns.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"columns differ in length: {', '.join(f'{key} {shape}' for key, shape in rows.items())}")
    _check_terminals(columns["terminals"])
    if "masks" in columns and not np.isin(columns["masks"], (0, 1)).all():
        raise ValueError("masks must hold 0 (the task ended) and 1 only")
    return columns


def read_column(path: Path, key: str, *, memory_map: bool = False, trusted: bool = False) -> np.ndarray:
    """Read one column of a file, whose bytes are compared with the archive's checksum.

    Raises:
        ValueError: If it is damaged, or holds no numbers.
    """
    try:
        column = read_npz(path, [key], memory_map)[key]
        # What is not mapped has been compared while it was read.
        if not trusted and isinstance(column.base, np.memmap):
            once(path, f"{key} intact", lambda: intact(path, key))
    except Exception as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else "its bytes are damaged"
        raise ValueError(f"{key} cannot be read: {reason}") from error
    if column.dtype.kind not in "fiub":
        raise ValueError(f"{key} must hold numbers, got dtype {column.dtype}")
    return column


def check_finite(path: Path, key: str, column: np.ndarray) -> None:
    """Check a column of a file for values that are not `usable`; an unchanged file once in a process.

    Raises:
        ValueError: If there are any; the message has the row and the feature of the first one.
    """
    rows = once(path, f"{key} finite", lambda: rows_not_finite(column))
    if rows is not None:
        first, count = rows
        place = np.argwhere(~usable(column[first]))[0]
        feature, value = f", feature {place[0]}" if len(place) == 1 else "", column[first][tuple(place)]
        bad = f"beyond {LARGEST:.2g}, so that float32 loses their differences" if np.isfinite(value) else "not finite"
        raise ValueError(f"{key} holds {count} values that are {bad}: {value:g} in row {first}{feature}")


def usable(values: np.ndarray) -> np.ndarray:
    """Where values are finite, and no larger than `LARGEST`."""
    with np.errstate(over="ignore"):
        fits: np.ndarray = np.isfinite(np.multiply(values, 2, dtype=np.float32, casting="unsafe"))
    return fits


def rows_not_finite(column: np.ndarray) -> tuple[int, int] | None:
    """The first row with a value that is not `usable`, and how many such values there are; None for none."""
    first, count = None, 0
    step = max(1, CHUNK_VALUES // max(1, column[:1].size))
    for start in range(0, len(column), step):
        finite = usable(column[start : start + step])
        if not finite.all():
            bad = np.argwhere(~finite)
            first = start + int(bad[0, 0]) if first is None else first
            count += len(bad)
    return None if first is None else (first, count)


def _check_terminals(terminals: np.ndarray) -> None:
    if terminals.ndim != 1:
        raise ValueError(f"terminals must have shape (rows,), got {terminals.shape}")
    if not len(terminals):
        raise ValueError("holds no rows")
    if not np.isin(terminals, (0, 1)).all():
        raise ValueError("terminals must hold 0 and 1 only")
    if not terminals[-1]:
        raise ValueError(
            "the last row does not end an episode: the file is cut off (`nfkern data import` keeps such rows)"
        )
    ends = np.flatnonzero(terminals)
    short = np.flatnonzero(np.diff(ends, prepend=-1) < 2)
    if len(short):
        raise ValueError(
            f"{len(short)} of {len(ends)} episodes have a single row, hence no transition, the first at row "
            f"{ends[short[0]]} (`nfkern data import` reads files whose every row is a step)"
        )
