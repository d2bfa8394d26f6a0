"""One table of all records of all files, and its pivot: a line for each row, a column for each variant."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import polars as pl

from nfkern.bench.core import records as storage
from nfkern.bench.core.records import Record
from nfkern.bench.core.timing import Quantiles

_SCHEMA: dict[str, type] = {
    **dict.fromkeys(("file", "row", "work", "case"), str),
    **dict.fromkeys(("batch", "threads"), int),
    "variant": str,
    "parameters": int,
    **{each.name: int if each.name == "repeats" else float for each in fields(Quantiles)},
    **dict.fromkeys(("device", "device_name"), str),
    "cores": int,
    "date": str,
}


def frame(files: Mapping[str, Sequence[Record]]) -> pl.DataFrame:
    """Records by file as one table, quantiles and environment in columns of their own; a refused number is null."""
    lines = [
        {
            **{name: getattr(record, name) for name in ("row", *_SCHEMA) if hasattr(record, name)},
            **(asdict(record.quantiles) if record.quantiles else {}),
            **{name: getattr(record.environment, name) for name in ("device", "device_name", "cores")},
            "file": file,
        }
        for file, records in files.items()
        for record in records
    ]
    return pl.DataFrame(lines, schema=_SCHEMA)


def read(folder: Path) -> pl.DataFrame:
    """All records of a folder's files."""
    return frame({path.name: storage.read(path) for path in sorted(folder.glob("*.json"))})


def medians(records: pl.DataFrame, index: str | Sequence[str] = "row") -> pl.DataFrame:
    """Seconds per call: a line for each value of `index`, a column for each variant, in the records' order."""
    return records.pivot(on="variant", index=index, values="median_s", aggregate_function="min")
