"""The manifest beside a dataset: where it comes from, how to make it again, and the checksums of its files."""

import hashlib
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nfkern.errors import UserError
from nfkern.host.files import read_json, write_json

from .remembered import once

DEFAULT_DATASET_DIR = Path("~/.nfkern/data")
MANIFEST_FORMAT = 1


@dataclass(frozen=True)
class DatasetFiles:
    """The paths that belong to one dataset name in one folder.

    Raises:
        UserError: If the name is none: it would lead out of the folder, be taken for a path, or name the validation
            file of another dataset.
    """

    directory: Path
    name: str

    def __post_init__(self) -> None:
        # NAME.npz would be read as a path by what takes a name.
        if not re.fullmatch(r"[\w-][\w.-]*(?<!\.npz)", self.name):
            raise UserError(f"expected a dataset name such as pointmaze-medium-navigate-v0, got {self.name!r}")
        if self.name.endswith("-val"):
            raise UserError(
                f"expected a dataset name that does not end in -val, got {self.name!r}: {self.name}.npz is the "
                f"validation file of {self.name.removesuffix('-val')}"
            )

    @property
    def train(self) -> Path:
        """The training split."""
        return self.directory / f"{self.name}.npz"

    @property
    def val(self) -> Path:
        """The validation split."""
        return self.directory / f"{self.name}-val.npz"

    @property
    def manifest(self) -> Path:
        """The manifest."""
        return self.directory / f"{self.name}.json"

    @property
    def partial(self) -> Path:
        """The folder in which an unfinished generation lies."""
        return self.directory / f"{self.name}.partial"

    @property
    def splits(self) -> dict[str, Path]:
        """Both data files by split."""
        return {"train": self.train, "val": self.val}


@dataclass(frozen=True)
class Manifest:
    """A dataset's manifest: origin, parameters, versions and checksums.

    Attributes:
        name: The dataset's name.
        origin: Whether the files were generated here, downloaded, or converted from another format.
        parameters: What a generation depends on (recipe, seed, episodes); empty for downloads.
        versions: Packages whose version can change the bytes.
        sha256: Checksum by file name.
        source: Address of a download, or name of what was imported.
        note: A sentence on what the data are.
    """

    name: str
    origin: Literal["generated", "downloaded", "imported"]
    sha256: dict[str, str]
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    source: str | None = None
    note: str = ""

    def write(self, path: Path) -> None:
        """Write the manifest as JSON, atomically."""
        write_json(path, {"format": MANIFEST_FORMAT, **asdict(self)})

    @staticmethod
    def read(path: Path) -> "Manifest | None":
        """Return the manifest in a file, or None where there is none.

        Raises:
            UserError: If the file is no manifest that this version understands.
        """
        if not path.exists():
            return None
        try:
            content = read_json(path)
            if (found := content.pop("format", None)) != MANIFEST_FORMAT:
                raise ValueError(f"expected format {MANIFEST_FORMAT}, got {found!r}")
            known = [each.name for each in fields(Manifest)]
            if strange := [key for key in content if key not in known]:
                raise ValueError(f"expected {', '.join(known)}, got {', '.join(strange)} as well")
            if missing := [key for key in ("name", "origin", "sha256") if key not in content]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            manifest = Manifest(**content)
            for key, kind in (("sha256", dict), ("parameters", dict), ("versions", dict), ("note", str)):
                if not isinstance(getattr(manifest, key), kind):
                    raise ValueError(f"expected {key} to be a {kind.__name__}, got {getattr(manifest, key)!r}")
            return manifest
        except ValueError as error:
            raise UserError(f"{path} is no manifest of a dataset ({error}): move it away and try again") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; one process reads an unchanged file once."""

    def digest() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return once(path, "sha256", digest)


def recorded_sha256(path: Path) -> str | None:
    """Return the checksum that the manifest beside a data file has for it; None without a manifest or without one.

    Raises:
        UserError: If there is a manifest that this version does not understand.
    """
    # The manifest of X speaks for X.npz and X-val.npz; there is no dataset X-val.
    manifest = Manifest.read(path.with_name(f"{path.stem.removesuffix('-val')}.json"))
    return None if manifest is None else manifest.sha256.get(path.name)
