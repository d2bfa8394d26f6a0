"""Sources whose files hold tables: LeRobot's parquet, and Minari's Arrow."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nfkern.errors import UserError

from .layout import CUT, ENDED, ImportOptions
from .leaves import Leaf, Leaves, natural
from .source import Source, Split, grouped

EPISODE, FRAME = "episode_index", "frame_index"
VALIDATION = ("val", "valid", "validation", "test")


def read_lerobot(path: Path, options: ImportOptions, name: str) -> Source:
    """LeRobot's tables, one file for each episode (v2.1) or for many (v3): rows belong to their `episode_index`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [path] if path.is_file() else parquet_files(path)
    if not files:
        raise UserError(f"expected parquet files below {path / 'data'}, got none")
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file))
        except pa.ArrowException as error:
            raise UserError(f"{file.name} is damaged or cut off") from error
        if set(tables[-1].schema.names) != set(tables[0].schema.names):
            raise UserError(
                f"{file.name}: expected the columns of {files[0].name}, got {', '.join(tables[-1].schema.names)}"
            )
    leaves = _leaves_of_tables(tables)
    if EPISODE not in leaves:
        raise UserError(f"expected a column {EPISODE}, got {', '.join(leaves)}")
    for key in {EPISODE, FRAME} & leaves.keys():
        if leaves[key].problem or leaves[key].dtype.kind not in "iu":
            raise UserError(f"{key}: expected whole numbers, got {leaves[key]}")
    info = _info(path / "meta" / "info.json")
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


def parquet_files(path: Path) -> list[Path]:
    """LeRobot's files in a folder, in order; macOS leaves hidden ones beside them, which hold no tables."""
    return _seen(sorted((path / "data").rglob("*.parquet")))


def _seen(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if not path.name.startswith(".")]


def _runs(numbers: np.ndarray, order: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    ordered = numbers[order]
    for rows in np.split(order, np.flatnonzero(np.diff(ordered)) + 1):
        yield int(numbers[rows[0]]), rows


def _some(leaves: Leaves, rows: np.ndarray) -> Leaves:
    readable = {key: leaf for key, leaf in leaves.items() if key not in (EPISODE, FRAME, "index", "timestamp")}
    return {key: leaf if leaf.problem else Leaf.of(leaf.read()[rows]) for key, leaf in readable.items()}


def _splits(info: dict[str, Any], groups: dict[str, Leaves]) -> dict[str, Split]:
    """Those that meta/info.json has as ranges of episodes, if it has some for both."""
    ranges = info.get("splits", {})
    validation = next((name for name in VALIDATION if name in ranges), None)
    if "train" not in ranges or validation is None:
        return {}
    found: dict[str, Split] = {}
    named: tuple[tuple[Split, str], ...] = (("train", "train"), ("val", validation))
    for split, key in named:
        bounds = re.fullmatch(r"(\d+):(\d+)", str(ranges[key]))
        if bounds is None:
            raise UserError(f"meta/info.json: expected splits such as 0:50, got {ranges[key]!r} for {key}")
        labels = [f"episode {number}" for number in range(*map(int, bounds.groups()))]
        if both := [label for label in labels if label in found]:
            raise UserError(f"meta/info.json: expected splits of different episodes, but {both[0]} is in both")
        found |= dict.fromkeys(labels, split)
    return {label: split for label, split in found.items() if label in groups}


def read_minari_arrow(path: Path, options: ImportOptions, name: str) -> Source:
    """Minari's Arrow files, a folder for each episode; the last row has an observation alone, the rest is padding."""
    import pyarrow as pa

    groups: dict[str, Leaves] = {}
    folders = _seen(sorted((each for each in path.iterdir() if each.is_dir()), key=lambda each: natural(each.name)))
    for folder in folders:
        batches = [pa.ipc.open_file(str(file)).read_all() for file in _seen(sorted(folder.glob("*.arrow")))]
        if not batches:
            continue
        leaves = _leaves_of(pa.concat_tables(batches), "")
        # Padding has no flags.
        flags = [leaves[key].read()[-1:] for key in (*ENDED, *CUT) if key in leaves and not leaves[key].problem]
        last = None if any(flag.any() for flag in flags) else -1
        groups[f"episode {folder.name}"] = {
            key: leaf if leaf.problem or key.partition("/")[0] == "observations" else Leaf.of(leaf.read()[:last])
            for key, leaf in leaves.items()
        }
    if not groups:
        raise UserError(f"expected folders with Arrow files in {path}, got none")
    return grouped("Minari Arrow", groups, options, name, {})


def _info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"meta/info.json is no JSON: {error}") from error
    if not isinstance(info, dict):
        raise UserError(f"meta/info.json: expected an object, got {type(info).__name__}")
    return info


def _leaves_of_tables(tables: list[Any]) -> dict[str, Leaf]:
    """The columns of tables one after the other, whose types may differ as long as their numbers fit together."""
    parts = [_leaves_of(table, "") for table in tables if len(table)] or [_leaves_of(tables[0], "")]
    joined: dict[str, Leaf] = {}
    for key in parts[0]:
        leaves = [part.get(key, Leaf.unreadable("gaps")) for part in parts]
        problem = next((leaf.problem for leaf in leaves if leaf.problem), None)
        if problem is None and len({leaf.shape[1:] for leaf in leaves}) > 1:
            problem = "rows of different sizes"
        joined[key] = Leaf.unreadable(problem) if problem else Leaf.of(np.concatenate([x.read() for x in leaves]))
    return joined


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
    fields = [array.type.field(i) for i in range(array.type.num_fields)]
    # A picture's bytes, or the path of a video and a time in it.
    if any(str(each.type) == "binary" or each.name == "path" for each in fields):
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
