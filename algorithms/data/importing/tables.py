"""Sources whose files hold tables: LeRobot's parquet, and Minari's Arrow."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nfkern.errors import UserError

from .layout import ImportOptions
from .leaves import Leaf, Leaves, natural
from .source import Source, Split, grouped

EPISODE, FRAME = "episode_index", "frame_index"
VALIDATION = ("val", "valid", "validation", "test")


def read_lerobot(path: Path, options: ImportOptions, name: str) -> Source:
    """LeRobot's tables, one file for each episode (v2.1) or for many (v3): rows belong to their `episode_index`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [path] if path.is_file() else sorted((path / "data").rglob("*.parquet"))
    if not files:
        raise UserError(f"expected parquet files below {path / 'data'}, got none")
    tables = [pq.read_table(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        if table.schema.names != tables[0].schema.names:
            raise UserError(
                f"{file.name}: expected the columns of {files[0].name}, got {', '.join(table.schema.names)}"
            )
    leaves = _leaves_of(pa.concat_tables(tables), "")
    if EPISODE not in leaves:
        raise UserError(f"expected a column {EPISODE}, got {', '.join(leaves)}")
    info_file = path / "meta" / "info.json"
    info: dict[str, Any] = json.loads(info_file.read_text()) if info_file.is_file() else {}
    numbers = leaves[EPISODE].read()
    frames = leaves[FRAME].read() if FRAME in leaves else np.arange(len(numbers))
    order = np.lexsort((frames, numbers))
    groups = {}
    for number, rows in _runs(numbers, order):
        label = f"episode {number}"
        if FRAME in leaves and not np.array_equal(frames[rows], np.arange(len(rows))):
            raise UserError(f"{label}: expected frames 0 to {len(rows) - 1}, once each, got others in {FRAME}")
        groups[label] = _some(leaves, rows)
    source = grouped(f"LeRobot {info.get('codebase_version', 'parquet')}", groups, options, name, _splits(info, groups))
    if info.get("total_frames", len(numbers)) != len(numbers):
        source.notes.append(
            f"meta/info.json promises {info['total_frames']} rows in {info.get('total_episodes')} episodes; the files "
            f"here hold {len(numbers)} in {len(groups)}"
        )
    return source


def _runs(numbers: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    ordered = numbers[order]
    for rows in np.split(order, np.flatnonzero(np.diff(ordered)) + 1):
        yield int(numbers[rows[0]]), rows


def _some(leaves: Leaves, rows: np.ndarray) -> Leaves:
    readable = {key: leaf for key, leaf in leaves.items() if key not in (EPISODE, FRAME, "index", "timestamp")}
    return {key: leaf if leaf.problem else Leaf.of(leaf.read()[rows]) for key, leaf in readable.items()}


def _splits(info: dict[str, Any], groups: dict[str, Leaves]) -> dict[str, Split]:
    """Those that meta/info.json has as ranges of episodes, if it has some for both."""
    ranges: dict[str, str] = info.get("splits", {})
    validation = next((name for name in VALIDATION if name in ranges), None)
    if "train" not in ranges or validation is None:
        return {}
    found: dict[str, Split] = {}
    named: tuple[tuple[Split, str], ...] = (("train", "train"), ("val", validation))
    for split, key in named:
        first, _, last = ranges[key].partition(":")
        found |= {f"episode {number}": split for number in range(int(first), int(last))}
    return {label: split for label, split in found.items() if label in groups}


def read_minari_arrow(path: Path, options: ImportOptions, name: str) -> Source:
    """Minari's Arrow files, a folder for each episode; the last row has an observation alone, the rest is padding."""
    import pyarrow as pa

    groups: dict[str, Leaves] = {}
    folders = sorted((folder for folder in path.iterdir() if folder.is_dir()), key=lambda folder: natural(folder.name))
    for folder in folders:
        batches = [pa.ipc.open_file(str(file)).read_all() for file in sorted(folder.glob("*.arrow"))]
        if not batches:
            continue
        leaves = _leaves_of(pa.concat_tables(batches), "")
        groups[f"episode {folder.name}"] = {
            key: leaf if leaf.problem or key.partition("/")[0] == "observations" else Leaf.of(leaf.read()[:-1])
            for key, leaf in leaves.items()
        }
    if not groups:
        raise UserError(f"expected folders with Arrow files in {path}, got none")
    return grouped("Minari Arrow", groups, options, name, {})


def _leaves_of(table: Any, prefix: str) -> dict[str, Leaf]:
    """The columns of a table, and of the structures in it, as `name/field`."""
    import pyarrow as pa

    found: dict[str, Leaf] = {}
    columns = ((name, table.column(name)) for name in table.schema.names)
    for name, column in columns:
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        found |= _leaves_of_array(f"{prefix}{name}", array)
    return found


def _leaves_of_array(name: str, array: Any) -> dict[str, Leaf]:
    import pyarrow as pa

    if not pa.types.is_struct(array.type):
        return {name: _leaf(array)}
    kinds = Counter(str(array.type.field(i).type) for i in range(array.type.num_fields))
    if "binary" in kinds:
        return {name: Leaf.unreadable("images")}
    return {
        key: leaf
        for i in range(array.type.num_fields)
        for key, leaf in _leaves_of_array(f"{name}/{array.type.field(i).name}", array.field(i)).items()
    }


def _leaf(array: Any) -> Leaf:
    """Numbers, or lists of the same length of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if array.null_count:
        return Leaf.unreadable("gaps")
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _leaf(array.flatten())
        lengths = pc.list_value_length(array).unique()
        if inner.problem or len(lengths) > 1:
            return Leaf.unreadable(inner.problem or "lists of different lengths")
        values = inner.read()
        return Leaf.of(values.reshape(len(array), -1, *values.shape[1:]) if len(array) else values)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return Leaf.of(array.to_numpy(zero_copy_only=False))
    return Leaf.unreadable(f"{kind}, no numbers")
