"""Results on disk: one JSON object a line, one line per row and variant."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nfkern.bench.core.environment import Environment
from nfkern.bench.core.timing import Quantiles
from nfkern.errors import UserError, reason
from nfkern.host.files import write_text


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
        format_version: of this class on disk; a file may have fields that this version does not know.
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
    format_version: Literal[1] = 1

    @property
    def row(self) -> str:
        """The name of its row, as `declarations.Row.name`."""
        return f"{self.work}-{self.case}-{self.batch}-threads_{self.threads}"

    @property
    def key(self) -> str:
        """The name of the measurement: records of two files are compared where their keys are equal."""
        return f"{self.row}-{self.variant}"


def write(path: Path, records: Iterable[Record]) -> None:
    """Replace the file in one step, so that an interruption leaves the old or the new one."""
    write_text(path, "".join(json.dumps(asdict(record)) + "\n" for record in records))


def read(path: Path) -> list[Record]:
    """All records of a file.

    Raises:
        UserError: there is no such file, or a line is no record.
    """
    # Here, not above: a GPU check measures and writes with torch, triton and numpy alone.
    import msgspec

    decoder = msgspec.json.Decoder(Record)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        how = f"make one with `nfkern bench run --out {path}`"
        raise UserError(f"{path}: cannot be read ({reason(error)}); {how}") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise UserError(f"{path}, line {number}: not a benchmark record: {error}") from None
    return records


def by_row(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records grouped by row, in order."""
    rows: dict[str, list[Record]] = {}
    for record in records:
        rows.setdefault(record.row, []).append(record)
    return rows
