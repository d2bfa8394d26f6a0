"""Sources whose files hold arrays: npz, HDF5 (D4RL, robomimic, Minari), zarr, and the relay kitchen's npy."""

import functools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nfkern.algorithms.data.archive import column_specs, read_npz
from nfkern.errors import UserError

from .layout import ACTIONS, ImportOptions, root
from .leaves import Leaf, Leaves, natural
from .source import Source, Split, flat, grouped

MASKS = ("train", "valid")
# The files that describe an array in zarr's second and third format.
ZARR_MARKS = (".zarray", "zarr.json")
# Bytes of the header of what blosc has packed, and where in it the length of all of it lies.
BLOSC_HEADER, BLOSC_SIZE = 16, slice(12, 16)


def read_npz_source(path: Path, options: ImportOptions, name: str) -> Source:
    """An npz file with episodes one after the other."""
    leaves = {
        key: Leaf(shape, dtype, functools.partial(_npz_array, path, key))
        for key, (shape, dtype) in column_specs(path).items()
    }
    return flat("npz", *_without_ends(leaves, "episode_ends"), options, name)


def _npz_array(path: Path, key: str) -> np.ndarray:
    return read_npz(path, [key])[key]


def _without_ends(leaves: Leaves, key: str) -> tuple[Leaves, np.ndarray | None]:
    ends = leaves[key].read() if key in leaves else None
    return {name: leaf for name, leaf in leaves.items() if name != key}, ends


def read_zarr(path: Path, options: ImportOptions, name: str) -> Source:
    """Diffusion Policy's replay buffers: `data/...` one after the other, and `meta/episode_ends`; also zipped."""
    import zarr
    from zarr.storage import ZipStore

    if path.is_dir():
        buffer = zarr.open_group(path, mode="r")
        entries = [str(entry.relative_to(path)) for mark in ZARR_MARKS for entry in path.rglob(mark)]
    else:
        below = zipped_zarr(path) or ""
        buffer = zarr.open_group(ZipStore(path, mode="r"), mode="r", path=below)
        with zipfile.ZipFile(path) as archive:
            entries = [name.removeprefix(f"{below}/") for name in archive.namelist() if name.startswith(below)]
    keys = {entry.rpartition("/")[0] for entry in entries if entry.rpartition("/")[2] in ZARR_MARKS}
    folder = path if path.is_dir() else None
    leaves = {key.removeprefix("data/"): _zarr_leaf(buffer, key, folder) for key in keys if key.startswith("data/")}
    groups = {name.rpartition("/")[0] for name in leaves}
    ends = _whole(buffer["meta/episode_ends"])
    return flat("zarr", {name: leaf for name, leaf in leaves.items() if name not in groups}, ends, options, name)


def _zarr_leaf(buffer: Any, key: str, folder: Path | None) -> Leaf:
    """An array of a group; `folder` is that of the group, or None in a zip file, whose checksums zarr compares."""
    try:
        array = buffer[key]
        read = functools.partial(_whole, array)
        # In the order in which they packed: with anything around it, a file is more than what blosc wrote.
        last = type(array.compressors[-1]).__name__.lower() if array.compressors else ""
        if folder is not None and "blosc" in last and array.shards is None:
            read = functools.partial(_whole_blosc, array, folder / key)
        missing = array.nchunks - array.nchunks_initialized
        remark = f"{missing} of {array.nchunks} chunks have no file, and are {array.fill_value} throughout"
        return Leaf(array.shape, np.dtype(array.dtype), read, remark=remark if missing else None)
    # Images come in codecs of other packages, and stop nobody who does not read them.
    except Exception:
        return Leaf.unreadable("in a codec or type that zarr does not read here")


def _whole_blosc(array: Any, folder: Path) -> np.ndarray:
    """Read an array whose files are chunks that blosc has packed; of one that is cut off it would make up the rest."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.name.startswith(".") and file.name not in ZARR_MARKS:
            with file.open("rb") as chunk:
                promised = int.from_bytes(chunk.read(BLOSC_HEADER)[BLOSC_SIZE], "little")
            if promised != file.stat().st_size:
                raise UserError(f"{folder.name}/{file.name} is cut off, or damaged")
    return _whole(array)


def _whole(array: Any) -> np.ndarray:
    return np.asarray(array[...])


def zipped_zarr(path: Path) -> str | None:
    """The folder of the replay buffer in a zip file; None if there is none.

    Raises:
        UserError: there are several, or one that zarr does not find its way in.
    """
    with zipfile.ZipFile(path) as archive:
        marks = [f"meta/episode_ends/{mark}" for mark in ZARR_MARKS]
        found = {member.removesuffix(mark) for member in archive.namelist() for mark in marks if member.endswith(mark)}
    if len(found) > 1:
        raise UserError(f"expected one replay buffer, got {', '.join(sorted(found))}: unzip it, and import the folder")
    if any(name.startswith("./") for name in found):
        raise UserError("its names begin with ./, with which zarr reads no zip file: unzip it, and import the folder")
    return found.pop().rstrip("/") if found else None


def read_hdf5(path: Path, options: ImportOptions, name: str) -> Source:
    """HDF5: robomimic's or Minari's, with a group for each episode, or one array after the other, as D4RL has them."""
    import h5py

    with h5py.File(path, "r") as file:
        leaves = dict(_leaves(file, ""))
        prefix = "data/" if any(key.startswith("data/") for key in leaves) else ""
        groups = _episodes({key: leaf for key, leaf in leaves.items() if key.startswith(prefix)}, prefix)
        # Groups such as infos may have actions, too.
        if not groups or any(key in ACTIONS[0] for key in leaves):
            return flat("flat HDF5", *_without_ends(leaves, "episode_ends"), options, name)
        minari = all(
            group.startswith("episode_") and {"terminations", "truncations"} <= found.keys()
            for group, found in groups.items()
        )
        kind = "robomimic" if prefix else "Minari" if minari else "HDF5, one group an episode"
        splits = _split_masks(leaves, options, list(groups))
        source = grouped(kind, groups, options, name, splits)
        source.notes += _about_masks(leaves, splits, options)
        others = {key: key.removeprefix(prefix).partition("/")[0] for key in leaves if key.startswith(prefix)}
        links = {group for key, group in others.items() if key == prefix + group and leaves[key].problem}
        for why, names in (("they are links", links), ("they have no actions", {*others.values()} - links)):
            if left := sorted(names - groups.keys(), key=natural):
                source.notes.append(f"not read, because {why}: {', '.join(left)}")
        return source


def _leaves(group: Any, prefix: str) -> Iterator[tuple[str, Leaf]]:
    """Every dataset below a group. Links are named and not followed: they can lead out of the file."""
    import h5py

    for key in group:
        name, link = f"{prefix}{key}", group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            yield name, Leaf.unreadable("a link, which is not followed")
            continue
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _leaves(item, f"{name}/")
        elif isinstance(item, h5py.Dataset):
            outside = item.external or (item.is_virtual and any(s.file_name != "." for s in item.virtual_sources()))
            readable = Leaf(item.shape or (), item.dtype, functools.partial(_whole, item))
            yield name, Leaf.unreadable("data of another file, which are not read") if outside else readable


def _episodes(leaves: Leaves, prefix: str) -> dict[str, Leaves]:
    """The arrays of each group that has actions, in the order of the groups' numbers."""
    found: dict[str, dict[str, Leaf]] = {}
    for name, leaf in leaves.items():
        group, _, key = name.removeprefix(prefix).partition("/")
        if key:
            found.setdefault(group, {})[key] = leaf
    return {
        group: found[group]
        for group in sorted(found, key=natural)
        if any(root(key) in ACTIONS[0] for key in found[group])
    }


def _split_masks(leaves: Leaves, options: ImportOptions, episodes: list[str]) -> Mapping[str, Split]:
    """The split of each episode by robomimic's lists; empty if there are none to go by."""
    masks = {name.removeprefix("mask/"): leaf for name, leaf in leaves.items() if name.startswith("mask/")}
    names = options.split_masks or MASKS
    if not options.split_masks and not set(MASKS) <= masks.keys():
        return {}
    if len(names) != 2 or not set(names) <= masks.keys():
        raise UserError(
            f"--split-masks: expected two of {', '.join(sorted(masks)) or 'no lists'}, got {','.join(names)}"
        )
    members = [[_text(value) for value in masks[name].read()] for name in names]
    both = sorted(set(members[0]) & set(members[1]), key=natural)
    strange = sorted({*members[0], *members[1]} - set(episodes), key=natural)
    if both or strange:
        problem = f"{both[0]} is in both" if both else f"there is no episode {strange[0]}"
        raise UserError(f"mask/{names[0]} and mask/{names[1]}: expected different episodes of the file, but {problem}")
    train: dict[str, Split] = dict.fromkeys(members[0], "train")
    val: dict[str, Split] = dict.fromkeys(members[1], "val")
    return train | val


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _about_masks(leaves: Leaves, splits: Mapping[str, str], options: ImportOptions) -> list[str]:
    masks = sorted(name for name in leaves if name.startswith("mask/"))
    if not splits:
        return [f"not used: {', '.join(masks)} (--split-masks TRAIN,VALID)"] if masks else []
    names = " and ".join(f"mask/{name}" for name in options.split_masks or MASKS)
    return [f"splits by {names}"]


def read_relay(folder: Path, options: ImportOptions, name: str) -> Source:
    """The relay kitchen's arrays, padded to the longest episode: time first, then episodes, as they are published."""
    columns = ("observations_seq", "actions_seq", "existence_mask")
    observations, actions, mask = (np.load(folder / f"{column}.npy", allow_pickle=False) for column in columns)
    if mask.ndim != 2 or observations.shape[:2] != mask.shape or actions.shape[:2] != mask.shape:
        raise UserError(
            f"expected arrays of (steps, episodes, ...), got {observations.shape}, {actions.shape}, {mask.shape}"
        )
    mask = mask.astype(bool)
    if not _padded_at_the_end(mask) and _padded_at_the_end(mask.T):
        observations, actions, mask = observations.swapaxes(0, 1), actions.swapaxes(0, 1), mask.T
    elif not _padded_at_the_end(mask):
        raise UserError("existence_mask: expected ones and then zeros in every episode, got gaps")
    groups = {}
    for episode, length in enumerate(mask.sum(0).tolist()):
        groups[f"episode {episode}"] = {
            "observations": Leaf.of(observations[:length, episode]),
            "actions": Leaf.of(actions[:length, episode]),
        }
    return grouped("relay kitchen", groups, options, name, {})


def _padded_at_the_end(mask: np.ndarray) -> bool:
    return bool((mask[:-1] >= mask[1:]).all())


def describe_zip(path: Path) -> str:
    """Contents of a zip file, for a message."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return f"a zip file of {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}"
