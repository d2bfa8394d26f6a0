"""Results on disk: one JSON object a line, one line per row and variant."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nfkern.bench.core.environment import Environment
from nfkern.bench.core.timing import Quantiles
from nfkern.errors import UserError
from nfkern.host.files import write_text

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Record:
    """One variant's result in one row.

    Exactly one of `quantiles`, `error` and `skipped` is set.

    Attributes:
        work, case, variant: their names.
        batch: samples per call.
        mode: "inference" or "training".
        threads: of PyTorch.
        precision: of the hidden products.
        parameters: number of trained parameters of the variant, 0 without a model.
        first_call_s: seconds of building the variant and calling it once, compilation included.
        quantiles: time per call.
        peak_bytes: what a process's first training steps allocate at most beside the problem, where it was measured.
        error: why the number was refused, e.g. a red gate.
        skipped: why the variant cannot run here.
        clock: the device's clock after the measurement.
        date: UTC, ISO 8601.
        environment: where it was measured.
    """

    work: str
    case: str
    batch: int
    variant: str
    mode: str
    threads: int
    precision: str
    parameters: int
    first_call_s: float | None
    quantiles: Quantiles | None
    error: str | None
    skipped: str | None
    clock: str
    date: str
    environment: Environment
    peak_bytes: int | None = None

    @property
    def row(self) -> str:
        """The name of its row, as `declarations.Row.name`."""
        return f"{self.work}-{self.case}-{self.batch}-threads_{self.threads}"

    @property
    def key(self) -> str:
        """What it is a measurement of: two files' records are compared where their keys are equal."""
        return f"{self.row}-{self.variant}"


def to_json(record: Record) -> dict[str, Any]:
    """A record as JSON's types."""
    return {"format_version": FORMAT_VERSION, **asdict(record)}


def from_json(data: dict[str, Any]) -> Record:
    """The record of `to_json`.

    Raises:
        ValueError: another format version, or unknown or missing fields.
    """
    if data.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version: expected {FORMAT_VERSION}, got {data.get('format_version')!r}")
    values = {name: value for name, value in data.items() if name != "format_version"}
    expected = {field.name for field in fields(Record)}
    if different := (values.keys() ^ expected) - {"peak_bytes"}:
        raise ValueError(f"fields: differ from this version's in {', '.join(sorted(different))}")
    try:
        values["environment"] = Environment(**values["environment"])
        values["quantiles"] = None if values["quantiles"] is None else Quantiles(**values["quantiles"])
    except TypeError as error:
        raise ValueError(f"fields: {error}") from None
    return Record(**values)


def write(path: Path, records: Iterable[Record]) -> None:
    """Replace the file in one step, so that an interruption leaves the old or the new one."""
    write_text(path, "".join(json.dumps(to_json(record)) + "\n" for record in records))


def read(path: Path) -> list[Record]:
    """All records of a file.

    Raises:
        UserError: there is no such file, or a line is no record.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make one with `nfkern bench run --out {path}`") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(from_json(json.loads(line)))
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: not a benchmark record: {error}") from None
    return records


def by_row(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records grouped by row, in order."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record.row, []).append(record)
    return rows
