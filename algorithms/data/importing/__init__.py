"""Reading demonstrations and datasets as others publish them; the format is told by what a file holds."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from nfkern.errors import UserError
from nfkern.host.packages import install_command

from .arrays import describe_zip, read_hdf5, read_npz_source, read_relay, read_zarr, zipped_zarr
from .layout import ImportOptions
from .source import Source, Split
from .steps import Rows, Steps, rows_of
from .tables import parquet_files, read_lerobot, read_minari_arrow

__all__ = ["ImportOptions", "Rows", "Source", "Split", "Steps", "read_source", "rows_of"]

Reader = Callable[[Path, ImportOptions, str], Source]
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
EXPECTED = (
    "expected an npz file, an HDF5 file (D4RL, robomimic, Minari), a zarr folder or zip file with meta/episode_ends, a "
    "folder of Minari or LeRobot, a parquet file, or a folder with existence_mask.npy"
)

DAMAGED = "the file is damaged, cut off, or written in a way that the format's own library does not read"


def read_source(path: Path, options: ImportOptions, name: str) -> Source:
    """Read the episodes of a file or folder.

    Args:
        path: it.
        options: what it does not say itself.
        name: of the dataset; those of pusht and kitchen get the observations of their environments.

    Raises:
        UserError: it is not there, of no known format, or lacks something that the message names.
    """
    if not path.exists():
        raise UserError(f"there is no file or folder {path}")
    try:
        reader, found = _recognise(path)
        source = reader(found, options, name)
        if options.split_masks and not source.splits:
            raise UserError(f"--split-masks: {source.kind} has no lists of episodes")
        return source
    except UserError as error:
        raise type(error)(f"{path} cannot be read as {name}: {error}") from error
    except OSError as error:
        # The system's words are about the file, a library's are not.
        reason = error.strerror if error.errno and error.filename else DAMAGED
        raise UserError(f"{path} cannot be read as {name}: {reason}") from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise UserError(f"{path} needs the package {package}: {install_command(package)}") from error
    except MemoryError:
        raise
    # A library's words about its own insides help nobody.
    except Exception as error:
        raise UserError(f"{path} cannot be read as {name}: {DAMAGED}") from error


def _recognise(path: Path) -> tuple[Reader, Path]:
    """The reader of a file or folder, and what to give it."""
    if path.is_file():
        return _recognise_file(path), path
    if (path / "existence_mask.npy").exists():
        return read_relay, path
    if (path / "meta" / "episode_ends").exists():
        return read_zarr, path
    if (path / "meta" / "info.json").exists():
        return read_lerobot, path
    for folder in (path, path / "data"):
        if (folder / "main_data.hdf5").is_file():
            return read_hdf5, folder / "main_data.hdf5"
        if _is_minari_arrow(folder):
            return read_minari_arrow, folder
    if parquet_files(path):
        return read_lerobot, path
    if not path.is_dir():
        raise UserError(f"{EXPECTED}; got neither a file nor a folder")
    names = sorted(entry.name for entry in path.iterdir())
    raise UserError(f"{EXPECTED}; got a folder of {', '.join(names[:8]) or 'nothing'}")


def _recognise_file(path: Path) -> Reader:
    got = "an empty file"
    with path.open("rb") as file:
        start = file.read(8)
        offset = 512
        # HDF5 may begin behind a block of the user's, at 512 bytes or a doubling of it.
        found_hdf5 = start == HDF5_SIGNATURE
        while not found_hdf5 and file.seek(offset) == offset and (bytes_there := file.read(8)):
            found_hdf5 = bytes_there == HDF5_SIGNATURE
            offset *= 2
    if found_hdf5:
        return read_hdf5
    if start[:4] == b"PAR1":
        return read_lerobot
    if zipfile.is_zipfile(path):
        if zipped_zarr(path) is not None:
            return read_zarr
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(".npy") for name in archive.namelist()):
                return read_npz_source
        got = describe_zip(path)
    elif start[:4] == b"PK\x03\x04":
        got = "a zip file that is cut off"
    elif start:
        got = f"a file that begins with {start!r}"
    raise UserError(f"{EXPECTED}; got {got}")


def _is_minari_arrow(folder: Path) -> bool:
    try:
        metadata = json.loads((folder / "metadata.json").read_text())
        return isinstance(metadata, dict) and metadata.get("data_format") == "arrow"
    except (OSError, ValueError):
        return folder.is_dir() and any(folder.glob("[0-9]*/*.arrow"))
