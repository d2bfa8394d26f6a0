"""Reading and writing OGBench's npz files without holding them in memory.

Files are written uncompressed, with fixed time stamps (the same arrays give the same bytes) and with every array
aligned in the file, so that it can be mapped straight from disk. Float data hardly compress: the published files are
compressed and save about a tenth.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

# Enough for any dtype and for vector loads.
ALIGNMENT = 64
# Bytes that one step of a pass over a file reads.
BLOCK = 1 << 22
# Bytes of a local zip header before the name, and where in it the two lengths that follow lie.
ZIP_HEADER, ZIP_NAME_LENGTH, ZIP_EXTRA_LENGTH = 30, slice(26, 28), slice(28, 30)


@dataclass(frozen=True)
class Column:
    """One array of an npz file, given piece by piece along the first axis."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Iterable[np.ndarray]


def write_npz(path: Path, columns: Iterable[Column]) -> None:
    """Write an uncompressed npz file, one column after another, in constant memory.

    Raises:
        ValueError: If the pieces of a column do not add up to its shape.
    """
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for column in columns:
            # A ZipInfo made by hand carries the fixed date 1980-01-01.
            with archive.open(zipfile.ZipInfo(f"{column.name}.npy"), "w", force_zip64=True) as member:
                member.write(_npy_header(column, file.tell()))
                rows = 0
                for piece in column.pieces:
                    member.write(np.ascontiguousarray(piece, dtype=column.dtype).tobytes())
                    rows += len(piece)
                if rows != column.shape[0]:
                    raise ValueError(f"column {column.name!r} promised {column.shape[0]} rows, got {rows}")


def _npy_header(column: Column, position: int) -> bytes:
    """Return a version 1.0 npy header after which the data are aligned, if it starts at `position` in the file."""
    description = {"descr": npy.dtype_to_descr(column.dtype), "fortran_order": False, "shape": column.shape}
    text = repr(description).encode("latin1")
    prefix = npy.magic(1, 0)
    padding = -(position + len(prefix) + 2 + len(text) + 1) % ALIGNMENT
    text += b" " * padding + b"\n"
    return prefix + len(text).to_bytes(2, "little") + text


def read_npz(path: Path, names: Iterable[str] | None = None, memory_map: bool = False) -> dict[str, np.ndarray]:
    """Read arrays of an npz file.

    Args:
        path: The file.
        names: Which arrays; those that the file lacks are left out. All by default.
        memory_map: Map uncompressed, aligned arrays read-only instead of loading them.

    Raises:
        ValueError: If an array is pickled, or the file is no npz file.
    """
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files if names is None else (name for name in names if name in file.files):
                mapped = _map_array(path, f"{name}.npy") if memory_map else None
                arrays[name] = file[name] if mapped is None else mapped
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is no readable npz file: {error}") from error
    return arrays


def intact(path: Path, name: str) -> bool:
    """True for an array whose bytes have the checksum that the archive names; a mapped one was never compared.

    Raises:
        zipfile.BadZipFile: If they have another.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        while member.read(BLOCK):
            pass
    return True


def column_names(path: Path) -> list[str]:
    """Return the names of the arrays of an npz file, reading none of them."""
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def column_specs(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of every array of an npz file, reading only headers."""
    specs = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                continue
            with archive.open(info) as member:
                shape, _, dtype = _read_npy_header(member)
            specs[info.filename.removesuffix(".npy")] = (shape, dtype)
    return specs


def _map_array(path: Path, member_name: str) -> np.ndarray | None:
    """Return the array as a view of the file, or None where it is compressed, not aligned, or empty."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        info = archive.getinfo(member_name)
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(info.header_offset)
        header = file.read(ZIP_HEADER)
        lengths = (int.from_bytes(header[part], "little") for part in (ZIP_NAME_LENGTH, ZIP_EXTRA_LENGTH))
        file.seek(info.header_offset + ZIP_HEADER + sum(lengths))
        shape, fortran_order, dtype = _read_npy_header(file)
        offset = file.tell()
    if fortran_order or dtype.hasobject or offset % dtype.alignment or 0 in shape:
        return None
    # The plain ndarray view: the memmap subclass slows every indexing down.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape))


def _read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    return shape, fortran_order, dtype


def concatenated(name: str, paths: list[Path]) -> Column:
    """Return the column `name` of several npz files, joined along the first axis and read one file at a time."""
    specs = [column_specs(path)[name] for path in paths]
    shape, dtype = specs[0]
    rows = sum(spec[0][0] for spec in specs)

    def pieces() -> Iterator[np.ndarray]:
        for path in paths:
            yield read_npz(path, [name])[name]

    return Column(name, (rows, *shape[1:]), dtype, pieces())
