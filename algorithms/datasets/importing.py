"""Demonstrations in the formats in which others publish them, turned into a dataset.

- Diffusion Policy's zarr: `data/action`, `data/state` of PushT or else `data/obs`, and `meta/episode_ends`.
- The relay kitchen arrays of BeT and VQ-BeT: `observations_seq`, `actions_seq` and `existence_mask`, one file each.
- Minari's HDF5, and folders that hold it as `data/main_data.hdf5`: observations and actions of every episode.
- npz: `observations`, `actions`, and `terminals`, `timeouts` or `episode_ends`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nfkern import __version__
from nfkern.errors import UserError

from .archive import Column, read_npz, write_npz
from .manifest import DatasetFiles, Manifest, sha256_of

# The numbers of the relay data that are states: arm and objects. The rest repeats a goal.
KITCHEN_STATE = 30


@dataclass(frozen=True)
class Demonstration:
    """One episode.

    Attributes:
        observations: (rows, observation_size), with or without a last one that no action follows.
        actions: (steps, action_size), as many as observations or one fewer.
    """

    observations: np.ndarray
    actions: np.ndarray


def import_demonstrations(
    source: Path, name: str, directory: Path, *, validation: float = 0.1, seed: int = 0, overwrite: bool = False
) -> Manifest:
    """Write a dataset from published files.

    Args:
        source: the file or folder.
        name: of the dataset; pusht-... and kitchen-... get the observations of those environments.
        directory: folder for NAME.npz, NAME-val.npz and NAME.json (made where missing).
        validation: share of the episodes for validation, at least one.
        seed: which ones.
        overwrite: replace a dataset of this name.

    Returns:
        The manifest.

    Raises:
        UserError: the source is not there, is of another format, or has fewer than two usable episodes; or there is
            a dataset of this name already.
        ValueError: an argument is out of range.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation: expected a share between 0 and 1, got {validation}")
    files = DatasetFiles(directory, name)
    present = [path.name for path in (*files.splits.values(), files.manifest) if path.exists()]
    if present and not overwrite:
        raise UserError(f"{directory} already holds {', '.join(present)}: replace it with --overwrite, or take another")
    kind, demonstrations = read_demonstrations(source, name)
    episodes = [_rows(demonstration) for demonstration in demonstrations]
    # A single row is no transition.
    episodes = [episode for episode in episodes if len(episode["observations"]) > 1]
    if len(episodes) < 2:
        raise UserError(f"{source}: expected at least two episodes of two steps or more, got {len(episodes)}")
    order = np.random.default_rng(seed).permutation(len(episodes))
    held_out = set(order[: max(1, round(validation * len(episodes)))].tolist())
    directory.mkdir(parents=True, exist_ok=True)
    for split, path in files.splits.items():
        chosen = [episode for index, episode in enumerate(episodes) if (index in held_out) == (split == "val")]
        temporary = path.with_name(f".{path.name}.tmp")
        write_npz(temporary, _columns(chosen))
        temporary.replace(path)
    manifest = Manifest(
        name=name,
        origin="imported",
        sha256={path.name: sha256_of(path) for path in files.splits.values()},
        parameters={"format": kind, "validation": validation, "seed": seed},
        versions={"nfkern": __version__},
        source=source.name,
        note=f"Imported from {source.name} ({kind}): {len(episodes)} episodes, {len(held_out)} of them for validation.",
    )
    manifest.write(files.manifest)
    return manifest


def read_demonstrations(source: Path, name: str) -> tuple[str, list[Demonstration]]:
    """The format of a file or folder, and its episodes.

    Raises:
        UserError: there is no such file, it is of another format, or lacks something.
    """
    if not source.exists():
        raise UserError(f"there is no file or folder {source}")
    files = [path for path in (source, source / "main_data.hdf5", source / "data" / "main_data.hdf5") if path.is_file()]
    hdf5 = next((path for path in files if path.suffix in (".hdf5", ".h5")), None)
    try:
        if hdf5 is not None:
            return "Minari", list(_minari(hdf5, name))
        if (source / "existence_mask.npy").exists():
            return "relay kitchen", list(_relay(source, name))
        if source.is_dir() and (source / "meta" / "episode_ends").exists():
            return "zarr", list(_zarr(source, name))
        if source.suffix == ".npz":
            return "npz", list(_npz(source))
    except ModuleNotFoundError as error:
        raise UserError(f"{source} needs the package {error.name}: pip install 'nfkern[imitation]'") from error
    except (KeyError, ValueError, OSError) as error:
        lacks = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{source} cannot be read as {name}: {lacks}") from error
    raise UserError(
        f"{source}: expected a zarr folder with meta/episode_ends, a folder with existence_mask.npy, a Minari dataset "
        "or HDF5 file, or an npz file"
    )


def _zarr(source: Path, name: str) -> Iterator[Demonstration]:
    import zarr

    root = zarr.open_group(source, mode="r")
    actions, ends = np.asarray(root["data/action"]), np.asarray(root["meta/episode_ends"])
    if name.startswith("pusht"):
        from nfkern.algorithms.imitation.push_t import keypoint_observations

        observations = keypoint_observations(np.asarray(root["data/state"], dtype=np.float64))
    else:
        observations = np.asarray(root["data/obs" if "data/obs" in root else "data/state"])
    yield from _cut(observations, actions, ends)


def _relay(source: Path, name: str) -> Iterator[Demonstration]:
    columns = ("observations_seq", "actions_seq", "existence_mask")
    observations, actions, mask = (np.load(source / f"{column}.npy", allow_pickle=False) for column in columns)
    if name.startswith("kitchen"):
        observations = observations[..., :KITCHEN_STATE]
    # Time comes first, then the episodes, all of them as long as the longest.
    if observations.shape[:2] != actions.shape[:2] or mask.shape != actions.shape[:2]:
        raise ValueError(
            f"expected arrays of (steps, episodes, ...), got {observations.shape}, {actions.shape}, {mask.shape}"
        )
    for episode in range(mask.shape[1]):
        length = int(mask[:, episode].astype(bool).sum())
        yield Demonstration(observations[:length, episode], actions[:length, episode])


def _minari(source: Path, name: str) -> Iterator[Demonstration]:
    import h5py

    with h5py.File(source) as file:
        for key in sorted(file, key=lambda key: int(key.rpartition("_")[2])):
            observations = file[key]["observations"]
            if isinstance(observations, h5py.Group):
                # Goal-conditioned environments have the state beside goals.
                if "observation" not in observations:
                    raise ValueError(f"expected observations in one array, got a group of {', '.join(observations)}")
                observations = observations["observation"]
            states = np.asarray(observations)
            if name.startswith("kitchen"):
                from nfkern.algorithms.imitation.kitchen import positions

                states = positions(states)
            yield Demonstration(states.reshape(len(states), -1), np.asarray(file[key]["actions"]))


def _npz(source: Path) -> Iterator[Demonstration]:
    arrays = read_npz(source)
    if "episode_ends" in arrays:
        ends = arrays["episode_ends"]
    else:
        flags = [arrays[key].astype(bool) for key in ("terminals", "timeouts") if key in arrays]
        ends = np.flatnonzero(np.any(flags, axis=0)) + 1 if flags else np.zeros(0, dtype=int)
        if not len(ends):
            raise ValueError("expected episode_ends, or terminals or timeouts that are not all zero")
    yield from _cut(arrays["observations"], arrays["actions"], ends)


def _cut(observations: np.ndarray, actions: np.ndarray, ends: np.ndarray) -> Iterator[Demonstration]:
    """Episodes from arrays that hold them one after the other; `ends` are each one's first row that is not its own."""
    starts = np.concatenate([[0], ends[:-1]]).astype(int)
    if len(observations) != len(actions) or (ends <= starts).any() or ends[-1] > len(actions):
        raise ValueError(
            f"expected growing ends of episodes up to {len(actions)}, and as many observations, got "
            f"{len(observations)} of them and ends {ends}"
        )
    for start, end in zip(starts, ends.astype(int), strict=True):
        yield Demonstration(observations[start:end], actions[start:end])


def _rows(demonstration: Demonstration) -> dict[str, np.ndarray]:
    """An episode in OGBench's schema, whose last row has an action that nobody follows."""
    observations, actions = demonstration.observations, demonstration.actions
    if observations.ndim != 2 or actions.ndim != 2 or len(observations) - len(actions) not in (0, 1):
        raise UserError(
            "expected observations and actions of (steps, size), with at most one observation more, got shapes "
            f"{observations.shape} and {actions.shape}"
        )
    if len(observations) > len(actions):
        actions = np.concatenate([actions, actions[-1:]])
    terminals = np.zeros(len(actions), dtype=bool)
    terminals[-1:] = True
    return {
        "observations": observations.astype(np.float32),
        "actions": actions.astype(np.float32),
        "terminals": terminals,
    }


def _columns(episodes: list[dict[str, np.ndarray]]) -> Iterator[Column]:
    for name, first in episodes[0].items():
        pieces = [episode[name] for episode in episodes]
        yield Column(name, (sum(map(len, pieces)), *first.shape[1:]), first.dtype, pieces)
