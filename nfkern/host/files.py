"""Files and folders that are replaced in one step: an interruption leaves the old or the new one, whole."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_file(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary sibling file that takes the place of `path` when the block ends without an error.

    Args:
        path: the file to replace or make; its folder is made, too.
        suffix: end of the temporary file's name, for writers that choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path, suffix)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling folder that takes the place of `path` when the block ends without an error."""
    folder = _sibling(path)
    folder.mkdir(parents=True)
    try:
        yield folder
        for file in folder.rglob("*"):
            if file.is_file():
                # safetensors writes files for their owner alone.
                file.chmod(folder.stat().st_mode & 0o666)
                _sync(file)
        if path.exists():
            # A folder cannot replace a full one in one step: move the old one aside first.
            old = path.with_name(f"{folder.name}.old")
            old.mkdir()
            os.replace(path, old)
            os.replace(folder, path)
            shutil.rmtree(old)
        else:
            os.replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of text in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a file of JSON in one step."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _sibling(path: Path, suffix: str = "") -> Path:
    # Not by tempfile, whose files are for their owner alone: the umask says who may read.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
