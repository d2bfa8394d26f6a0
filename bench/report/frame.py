"""One table of all records of all files, and its pivot: a line for each row, a column for each variant."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import polars as pl

from nfkern.bench.core import records as storage
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Quantiles

_OF_RECORD: dict[str, type] = {
    **dict.fromkeys(("row", "work", "case", "variant", "date"), str),
    **dict.fromkeys(("batch", "threads", "parameters", "peak_bytes"), int),
}
_OF_ENVIRONMENT: dict[str, type] = {"device": str, "device_name": str, "cores": int, "commit": str}
_OF_TIME: dict[str, type] = {each.name: int if each.name == "repeats" else float for each in fields(Quantiles)}


def frame(files: Mapping[str, Sequence[Record]]) -> pl.DataFrame:
    """Records by file as one table, quantiles and environment in columns of their own; a refused number is null."""
    lines = [
        {"file": file}
        | {name: getattr(record, name) for name in _OF_RECORD}
        | {name: getattr(record.environment, name) for name in _OF_ENVIRONMENT}
        | (asdict(record.quantiles) if record.quantiles else {})
        for file, records in files.items()
        for record in records
    ]
    return pl.DataFrame(lines, schema={"file": str} | _OF_RECORD | _OF_ENVIRONMENT | _OF_TIME)


def read(folder: Path) -> pl.DataFrame:
    """All records of a folder's files."""
    return frame({path.name: storage.read(path) for path in sorted(folder.glob("*.json"))})
