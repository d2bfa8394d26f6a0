"""Paths of a dataset's files, and advice on missing ones."""

import re
import shlex
from pathlib import Path

from nfkern.algorithms.envs.imitation import find, task_of
from nfkern.errors import UserError

from .manifest import DEFAULT_DATASET_DIR, DatasetFiles
from .recipes import data_name


def dataset_file(source: str | Path, dataset_dir: Path = DEFAULT_DATASET_DIR, split: str = "train") -> Path:
    """The file of a dataset's split; `source` may be a file. Arguments of `TransitionDataset.load`."""
    path = Path(source).expanduser()
    if path.suffix == ".npz":
        return path if split == "train" else path.with_name(f"{path.stem.removesuffix('-val')}-val.npz")
    return dataset_files(str(source), dataset_dir).splits[split]


def dataset_files(name: str, dataset_dir: Path = DEFAULT_DATASET_DIR) -> DatasetFiles:
    """The files of a dataset by its name.

    Raises:
        UserError: the name is none, or that of a file of another format, which has to be imported.
    """
    path = Path(name).expanduser()
    if path.suffix and path.exists():
        new = re.sub(r"[^\w.-]", "-", path.stem)
        raise UserError(f"{path} is no npz file: run `{shlex.join(['nfkern', 'data', 'import', name, '--name', new])}`")
    return DatasetFiles(dataset_dir.expanduser(), data_name(name))


def has_validation(source: str | Path, dataset_dir: Path = DEFAULT_DATASET_DIR) -> bool:
    """Whether there is a file for validation: a dataset has one by its name, and a file if NAME-val.npz lies beside."""
    train, val = (dataset_file(source, dataset_dir, split) for split in ("train", "val"))
    return Path(source).suffix != ".npz" or (val.is_file() and val != train)


def how_to_get(path: Path) -> str:
    """Advice on a dataset's file that is not there."""
    name = path.stem.removesuffix("-val")
    train = path.with_name(f"{name}.npz")
    if path != train and train.exists():
        # A file that is read as it is has a row for the state in which each episode ended.
        how = f"`nfkern data import {train} --last-row state --name NEW-NAME`"
        return f"{how} makes a dataset with one of its own of {train.name}"
    return _meant(name) + _where_from(name)


def _meant(name: str) -> str:
    """A question about a name that is none of a published or generated dataset; empty for one that is."""
    try:
        # Only now: simulators take seconds to import, and may be missing.
        from nfkern.algorithms.envs.make import environment_id, similar_names
    except ModuleNotFoundError:
        return ""
    try:
        environment_id(name)
    except UserError:
        close = similar_names(name)
        return f"did you mean {' or '.join(close)}? Or " if close else ""
    return ""


def _where_from(name: str) -> str:
    environment = find(name)
    if environment is None:
        return (
            f"make it with `nfkern data generate {name}`, get the published one with `nfkern data download {name}`, or "
            f"read your own with `nfkern data import FILE --name {name}`"
        )
    task = task_of(environment)
    if task is not None and task.expert is not None:
        return f"make it with `nfkern data generate {name}`"
    return f"get what people demonstrated, and read it with `nfkern data import FILE --name {name}`"
