"""Results of a study on disk: one JSON document, written anew after each piece of work."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nfkern.errors import UserError
from nfkern.host.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Results = TypeVar("Results")


def write_document(path: Path, header: dict[str, Any], results: "DataclassInstance") -> None:
    """Replace the file in one step, so that an interruption leaves the old or the new one.

    Raises:
        ValueError: a number is not finite.
    """
    write_text(path, json.dumps(header | asdict(results), indent=1, allow_nan=False) + "\n")


def read_document(path: Path, command: str, parse: Callable[[dict[str, Any]], Results]) -> Results:
    """What `parse` makes of the file's document.

    Raises:
        UserError: there is no such file, or `parse` finds something else in it.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make one with `{command} --out {path}`") from None
    try:
        return parse(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: holds no results of `{command}`: {error}") from None


def tuples(data: dict[str, Any]) -> dict[str, Any]:
    """The dictionary with tuples in place of JSON's lists."""
    return {name: tuple(each) if isinstance(each, list) else each for name, each in data.items()}


def differences(one: "DataclassInstance", other: "DataclassInstance") -> list[str]:
    """Names of the settings that are not the same."""
    return [each.name for each in fields(one) if getattr(one, each.name) != getattr(other, each.name)]
