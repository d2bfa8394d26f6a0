"""Modules on disk: a folder with `config.json` and `model.safetensors`, written atomically, read strictly."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

FORMAT_VERSION = 1


class Pretrained:
    """Mixin for modules that save and restore themselves. The class keeps its constructor's arguments in `config`."""

    config: dict[str, Any]

    def save_pretrained(self, path: str | Path) -> None:
        """Write the module to the folder `path`; an earlier save there is replaced once the new one is complete.

        Raises:
            ValueError: `path` holds something else, which is left alone.
        """
        assert isinstance(self, nn.Module)
        # Only files need it: flows run where it is not installed.
        from safetensors.torch import save_file

        self._check_replaceable(Path(path))
        header = {"format_version": FORMAT_VERSION, "class": type(self).__name__, "config": self.config}
        # Contiguous copies: stacked parameters may be views of one storage, which safetensors refuses.
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_folder(Path(path)) as folder:
            write_json(folder / "config.json", header)
            save_file(tensors, folder / "model.safetensors")

    def _check_replaceable(self, path: Path) -> None:
        """Only an empty folder or an earlier save of this class may go."""
        if not path.exists():
            return
        found = {file.name for file in path.iterdir()} if path.is_dir() else {"a file"}
        if found - {"config.json", "model.safetensors"}:
            raise ValueError(f"path: expected a new folder or an earlier save, but {path} holds {sorted(found)}")
        if found and (saved := read_json(path / "config.json").get("class")) != type(self).__name__:
            raise ValueError(
                f"path: expected a new folder or a saved {type(self).__name__}, but {path} holds a {saved}"
            )

    @classmethod
    def from_pretrained(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Restore a module from `save_pretrained`'s folder.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: another class, a newer format, a damaged file, or missing or unknown weights.
        """
        path = Path(path)
        header = read_json(path / "config.json")
        if header.get("class") != cls.__name__:
            raise ValueError(f"path: expected a saved {cls.__name__}, got {header.get('class')!r} in {path}")
        if header.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"path: expected format_version {FORMAT_VERSION}, got {header.get('format_version')!r} in {path}"
            )
        try:
            module = cls(**header["config"])
        except TypeError as error:
            raise ValueError(f"path: settings in {path} do not fit: {error}") from None
        assert isinstance(module, nn.Module)
        tensors = read_tensors(path / "model.safetensors")
        expected, found = set(module.state_dict()), set(tensors)
        if expected != found:
            raise ValueError(
                f"path: weights in {path} do not fit; missing {sorted(expected - found)}, "
                f"unknown {sorted(found - expected)}"
            )
        dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
        module.to(dtype=dtype)
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"path: weights in {path} do not fit: {error}") from None
        return module.to(device)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling folder that takes the place of `path` when the block ends without an error."""
    # Not by tempfile, whose folders are for their owner alone: the umask says who may read.
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    folder.mkdir(parents=True)
    try:
        yield folder
        for file in folder.iterdir():
            # safetensors writes files for their owner alone.
            file.chmod(folder.stat().st_mode & 0o666)
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if path.exists():
            # A folder cannot replace a full one in one step: move the old one aside first.
            old = path.with_name(f"{folder.name}.old")
            old.mkdir()
            os.replace(path, old)
            os.replace(folder, path)
            shutil.rmtree(old)
        else:
            os.replace(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON through a temporary file, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: expected safetensors, got a damaged file ({error})") from None
