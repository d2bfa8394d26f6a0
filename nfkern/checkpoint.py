"""Modules on disk: a folder with `config.json` and `model.safetensors`, written atomically, read strictly."""

import json
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from nfkern import hub
from nfkern.host.files import atomic_folder, read_json, write_json, write_text
from nfkern.kernels.dispatch.checks import FLOATING

FORMAT_VERSION = 1
_PLAIN = (bool, int, float, str, tuple, type(None))


class Pretrained:
    """Mixin for modules that save and restore themselves. The class keeps its constructor's arguments in `config`."""

    config: dict[str, Any]

    def save_pretrained(self, path: str | Path) -> None:
        """Write the module to the folder `path`; an earlier save there is replaced once the new one is complete.

        Raises:
            ValueError: `path` holds something else, which is left alone; or the module could not be restored: `config`
                does not describe it, a weight is not finite, or it has methods of its own.
            TypeError: a weight is a shard.
        """
        assert isinstance(self, nn.Module)
        # Imported here: flows run without safetensors.
        from safetensors.torch import save_file

        self._check_replaceable(Path(path))
        header = {"format_version": FORMAT_VERSION, "class": type(self).__name__, "config": self.config}
        refuse_shards(self)
        # Contiguous copies: stacked parameters may be views of one storage, which safetensors refuses.
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.state_dict().items()}
        _check_weights("module", tensors)
        _check_described(self, json.loads(json.dumps(self.config)), tensors)
        with atomic_folder(Path(path)) as folder:
            write_json(folder / "config.json", header)
            save_file(tensors, folder / "model.safetensors")

    def _check_replaceable(self, path: Path) -> None:
        """Refuse to replace anything but an empty folder or an earlier save of this class."""
        if not path.exists():
            return
        found = {file.name for file in path.iterdir()} if path.is_dir() else {"a file"}
        if found - {"config.json", "model.safetensors"}:
            raise ValueError(f"path: expected a new folder or an earlier save, but {path} holds {sorted(found)}")
        if found and (saved := read_json(path / "config.json").get("class")) != type(self).__name__:
            raise ValueError(
                f"path: expected a new folder or a saved {type(self).__name__}, but {path} holds a {saved}"
            )

    def push_to_hub(self, name: str, *, private: bool = False, message: str = "Upload a model of nfkern") -> str:
        """Upload the module to the Hugging Face Hub, with a model card; return its address.

        Args:
            name: "user/name", or "user/name/folder" for a second module beside the first, as an encoder.
            private: whether a model that is new on the Hub is hidden from others.
            message: of the commit.

        Raises:
            ModuleNotFoundError: huggingface_hub is not installed.
            ValueError: `name` is of another form, or the module could not be restored.
        """
        assert isinstance(self, nn.Module)
        place = hub.HubName.of(name)
        if place is None or place.revision:
            raise ValueError(f"name: expected 'user/name' or 'user/name/folder', got {name!r}")
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder)
            count = sum(parameter.numel() for parameter in self.parameters())
            write_text(folder / "README.md", hub.card(place, type(self).__name__, self.config, count))
            return hub.upload(folder, place, private=private, message=message)

    @classmethod
    def from_pretrained(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Restore a module from `save_pretrained`'s folder, or from the Hugging Face Hub.

        Args:
            path: the folder; where there is none, "user/name" or "user/name/folder" of a model on the Hub, with
                "@revision" (a branch, tag or commit) behind it for another than the newest.
            device: to put the module on.

        Raises:
            FileNotFoundError: no such folder, and no such model on the Hub, or huggingface_hub is not installed.
            ValueError: another class, a newer format, a damaged file, or missing or unknown weights.
        """
        place = hub.HubName.of(path) if isinstance(path, str) and not Path(path).exists() else None
        path = Path(path) if place is None else hub.download(place)
        header = read_json(path / "config.json")
        if header.get("class") != cls.__name__:
            raise ValueError(f"path: expected a saved {cls.__name__}, got {header.get('class')!r} in {path}")
        if (version := header.get("format_version")) != FORMAT_VERSION:
            newer = isinstance(version, int) and version > FORMAT_VERSION
            raise ValueError(
                f"path: expected format_version {FORMAT_VERSION}, got {version!r} in {path}"
                f"{': a newer nfkern wrote it; update nfkern' if newer else ''}"
            )
        try:
            module = cls(**header.get("config", {}))
        except (TypeError, RuntimeError) as error:
            # A RuntimeError means that a size does not fit in memory.
            raise ValueError(f"path: settings in {path} do not fit: {error}") from None
        assert isinstance(module, nn.Module)
        tensors = read_tensors(path / "model.safetensors")
        module.to(dtype=_check_weights("path", tensors))
        try:
            missing, unknown = module.load_state_dict(tensors, strict=False)
        except RuntimeError as error:
            raise ValueError(f"path: weights in {path} do not fit: {error}") from None
        if missing or unknown:
            raise ValueError(
                f"path: weights in {path} do not fit; missing {sorted(missing)}, unknown {sorted(unknown)}"
            )
        return module.to(device)


def refuse_shards(module: nn.Module, prefix: str = "") -> None:
    """Refuse parameters that are spread over processes, as FSDP2 does.

    Raises:
        TypeError: a parameter is a DTensor; the message says how to gather it.
    """
    for name, tensor in module.state_dict(prefix=prefix).items():
        if hasattr(tensor, "full_tensor"):
            raise TypeError(
                f"{name}: expected a whole tensor, got a {type(tensor).__name__}; in every process, load {{name: "
                "each.full_tensor() for name, each in module.state_dict().items()} into one of the same config"
            )


def _check_weights(name: str, tensors: dict[str, torch.Tensor]) -> torch.dtype:
    """The dtype of the weights; a coupling flow's permutation is not a weight.

    Raises:
        ValueError: weights of several dtypes, or not of a floating-point dtype, or not finite, or without values.
    """
    weights = {key: tensor for key, tensor in tensors.items() if key != "permutation"}
    dtypes = {tensor.dtype for tensor in weights.values()}
    if len(dtypes) > 1 or not dtypes <= {*FLOATING}:
        raise ValueError(f"{name}: expected weights of one floating-point dtype, got {sorted(map(str, dtypes))}")
    for key, tensor in weights.items():
        if tensor.is_meta:
            raise ValueError(f"{name}: expected weights with values, got {key} on the meta device, which holds none")
        if not tensor.isfinite().all():
            raise ValueError(f"{name}: expected finite weights, got {key} with NaN or infinity")
    return dtypes.pop() if dtypes else torch.get_default_dtype()


def _check_described(module: nn.Module, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Refuse a module that its class and config would not restore, with these weights.

    Raises:
        ValueError: the message says what differs.
    """
    kind = type(module)
    try:
        # Not on the meta device: its first use loads modules for seconds.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            twin = kind(**config)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"config: expected the arguments of {kind.__name__}, got {config}: {error}") from error
    expected = {name: tensor.shape for name, tensor in twin.state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items() if name != "permutation"}
    if found != expected:
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        raise ValueError(
            f"module: expected the weights that {kind.__name__} has for its config, got others: {different}; make "
            "parametrisations and pruning permanent before saving (torch.nn.utils)"
        )
    try:
        # As loading does: it refuses a permutation that is none.
        twin.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(f"module: expected weights that can be loaded, got others: {error}") from None
    ours, theirs = dict(module.named_modules()), dict(twin.named_modules())
    for path in {**theirs, **ours}:
        _check_same(path, ours.get(path), theirs.get(path))


def _check_same(path: str, ours: nn.Module | None, theirs: nn.Module | None) -> None:
    """Refuse a module inside that differs in kind, plain attributes or methods from the one that is restored.

    Hooks are no part of a model to PyTorch, which never saves them: loggers use them.

    Raises:
        ValueError: the message says what would be lost.
    """
    lost, prefix = "which would be lost", f"{path}." if path else ""
    if ours is None or theirs is None or type(ours) is not type(theirs):
        expected, found = (None if each is None else type(each).__name__ for each in (theirs, ours))
        other = "another " if expected == found else ""
        raise ValueError(f"{path}: expected {expected!r} as the config says, got {other}{found!r}, {lost}")
    of_every_module = vars(nn.Module())
    for name in [name for name in {**vars(theirs), **vars(ours)} if name not in of_every_module]:
        mine, default = getattr(ours, name, None), getattr(theirs, name, ...)
        if name in vars(ours) and callable(mine) and callable(getattr(type(ours), name, None)):
            raise ValueError(f"{prefix}{name}: expected the method of {type(ours).__name__}, got another, {lost}")
        # No caches, which are other values than plain ones, and no notes, of which the class knows nothing.
        compared = isinstance(mine, _PLAIN) or isinstance(vars(theirs).get(name, ...), _PLAIN)
        if compared and default is not ... and (not isinstance(mine, _PLAIN) or mine != default):
            raise ValueError(
                f"{prefix}{name}: expected {default!r} as the config says, got {mine!r}, {lost}; make a module with it"
            )


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
