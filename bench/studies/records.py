"""Results of a study on disk: one JSON document, written anew after each piece of work."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from nfkern.bench.core.environment import Environment
from nfkern.errors import UserError, reason
from nfkern.host.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar("Settings", bound="DataclassInstance")
Results = TypeVar("Results")
Row = TypeVar("Row")


@dataclass(kw_only=True)
class StudyResults(Generic[Settings]):
    """Everything in one file, with a list for each kind of row.

    A row that can fail has an `error`, and its text says which row it is. `skipped` has the reason for each policy that
    cannot run where the study was measured.
    """

    condition: ClassVar[str]
    """The field of a row that names its condition."""

    settings: Settings
    environment: Environment
    started: str
    skipped: dict[str, str] = field(default_factory=dict)
    format_version: Literal[1] = 1
    latencies: list[Any] = field(default_factory=list)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of all conditions."""
        raise NotImplementedError

    def times(self, condition: str, **wanted: object) -> dict[str, list[float]]:
        """Return the median seconds of acting for each number of observations."""
        rows = find(self.latencies, **{self.condition: condition}, **wanted)
        return {f"act {row.batch}": [row.quantiles.median_s] for row in rows}

    def lists(self) -> dict[str, list[Any]]:
        """Return the lists of rows, by name."""
        return {name: rows for name, rows in vars(self).items() if isinstance(rows, list)}

    def failures(self) -> list[str]:
        """Return a line for each row that failed."""
        every = (row for rows in self.lists().values() for row in rows)
        return [f"{row}: {row.error}" for row in every if getattr(row, "error", None)]

    def forget_failures(self) -> None:
        """Remove what failed, so that it is done again."""
        for rows in self.lists().values():
            rows[:] = [row for row in rows if not getattr(row, "error", None)]

    def counted(self) -> str:
        """Return how much there is."""
        return ", ".join(f"{len(rows)} {name}" for name, rows in self.lists().items())


def find(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Return the rows whose fields have the wanted values."""
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


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
        raise UserError(f"{path}: cannot be read ({reason(error)}); make one with `{command} --out {path}`") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: holds no results of `{command}`: {error}") from None
