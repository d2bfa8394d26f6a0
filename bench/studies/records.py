"""Results of a study on disk: one JSON document, written anew after each piece of work."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from nfkern.bench.core.environment import Environment
from nfkern.errors import UserError
from nfkern.host.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
Results = TypeVar("Results")


@dataclass(kw_only=True)
class StudyResults(Generic[Settings]):
    """Everything in one file; `skipped` has the reason for each policy that cannot run where it was measured."""

    settings: Settings
    environment: Environment
    started: str
    skipped: dict[str, str] = field(default_factory=dict)
    format_version: Literal[1] = 1

    def failures(self) -> list[str]:
        """Return a line for each thing that failed."""
        raise NotImplementedError

    def forget_failures(self) -> None:
        """Remove what failed, so that it is done again."""
        raise NotImplementedError

    def counted(self) -> str:
        """Return how much there is."""
        raise NotImplementedError


def write(path: Path, results: "DataclassInstance") -> None:
    """Replace the file in one step, so that an interruption leaves the old or the new one.

    Raises:
        ValueError: a number is not finite.
    """
    write_text(path, json.dumps(asdict(results), indent=1, allow_nan=False) + "\n")


def read(path: Path, kind: type[Results], command: str) -> Results:
    """Return the results of a file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    # Here, not above: the commands' help needs no package of the extra `bench`.
    import msgspec

    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); make one with `{command} --out {path}`") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: holds no results of `{command}`: {error}") from None
