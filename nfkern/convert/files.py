"""Files of arrays by name: torch.save's, safetensors, flax's msgpack and pickles. Nothing in a file is executed."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from nfkern.checkpoint import read_tensors
from nfkern.convert.arrays import flat
from nfkern.convert.pickles import read_pickle
from nfkern.errors import reason

Tensors = dict[str, torch.Tensor]
Source = str | Path | Mapping[str, Any]

_SIZES = 100 << 20
"""Bytes of a file that are read to find out its kind at the most: those of a safetensors header."""


def tensors_of(source: Source) -> Tensors:
    """Arrays of a file, or of nested dicts, by their names joined by dots. Other values are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one of another kind, or one that holds more than arrays.
    """
    if isinstance(source, Mapping):
        return flat("source", source)
    path = Path(source)
    if path.is_dir():
        raise ValueError(f"source: expected a file, got the folder {path}" + _hint(path))
    if not path.exists():
        raise FileNotFoundError(f"source: no such file: {path}")
    try:
        found = _read(path)
    except OSError as error:
        raise ValueError(f"source: {path} cannot be read: {reason(error)}") from None
    except MemoryError:
        raise ValueError(f"source: {path} claims more than fits in memory") from None
    if not found:
        raise ValueError(f"source: expected arrays, got none in {path}")
    return found


def _hint(folder: Path) -> str:
    """Words about a folder that is known."""
    if (folder / "model.safetensors").exists() and (folder / "config.json").exists():
        try:
            header = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (ValueError, OSError):
            return ""
        if isinstance(header, dict) and "format_version" in header:
            return f": it is nfkern's own, for {header.get('class')}.from_pretrained"
        return "; give its model.safetensors"
    return ""


def _read(path: Path) -> Tensors:
    with open(path, "rb") as file:
        head = file.read(9)
    size = path.stat().st_size
    if head[:2] == b"PK":
        return _read_torch(path, size)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= min(size, _SIZES):
        return flat(str(path), read_tensors(path))
    if head[:4] == b"\x80\x02\x8a\x0a":
        raise ValueError(f"source: {path} is in torch.save's form before torch 1.6: load it there, and save it again")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return flat(str(path), read_pickle(path))
    # A map of up to 15 entries, or of more: what flax writes.
    if head[:1] and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return flat(str(path), _read_msgpack(path))
    raise ValueError(
        f"source: expected a file of torch.save (since torch 1.6), safetensors, flax's msgpack or a pickle of arrays, "
        f"got {path}, which begins with {head[:8]!r}"
    )


def _read_torch(path: Path, size: int) -> Tensors:
    """Read torch.save's file with PyTorch's own unpickler for weights alone, after a look at what it claims."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"source: {path} is damaged: {error}") from None
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise ValueError(f"source: expected a file of torch.save, got another zip file: {path}")
    # Compressed entries could unfold to any size; torch.save writes none.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise ValueError(f"source: expected torch.save's own layout, got compressed or overlapping entries in {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Errors of damaged pickles are of any kind. PyTorch names what it refuses between advice to run it.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        got = f"a pickle that asks for {asked[1]}; nothing of it was run" if asked else f"a damaged one: {error}"
        raise ValueError(f"source: expected arrays alone in {path}, got {got}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"source: expected a dict of arrays in {path}, got a {type(found).__name__}")
    return flat(str(path), found, most=size)


def _read_msgpack(path: Path) -> Any:
    # Imported here: it is part of an extra.
    import msgspec

    def array(code: int, data: memoryview) -> Any:
        if code == 2:
            raise ValueError(f"source: expected real arrays, got a complex number in {path}")
        shape, dtype, raw = msgspec.msgpack.decode(data, type=tuple[list[int], str, bytes])
        return _array(path, shape, dtype, raw)

    try:
        return msgspec.msgpack.decode(path.read_bytes(), ext_hook=array)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"source: {path} is damaged: {error}") from None


def _array(path: Path, shape: list[int], dtype: str, raw: bytes) -> Any:
    if dtype == "bfloat16":
        return _array(path, shape, "uint16", raw).view(torch.bfloat16)
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if kind.kind not in "fiub":
        raise ValueError(f"source: expected arrays of numbers, got dtype {dtype!r} in {path}")
    count = 1
    for length in shape:
        count *= length
    if min(shape, default=0) < 0 or count * kind.itemsize != len(raw):
        raise ValueError(f"source: expected {len(raw)} bytes of {dtype}, got the shape {tuple(shape)} in {path}")
    return torch.from_numpy(cast(Any, np.frombuffer(raw, kind).reshape(shape)).copy())
