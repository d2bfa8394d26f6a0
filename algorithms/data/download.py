"""Fetching OGBench's published files, resumably."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from nfkern.errors import UserError

from .checks import structure_problems
from .manifest import DatasetFiles, Manifest, sha256_of
from .recipes import RECIPES

# The same address as ogbench.utils.DATASET_URL, which would take a simulator to import.
DATASET_URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"
# What a break costs at most: the rest of a block is dropped with the connection.
BLOCK = 1 << 14
RETRY_STATUS = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Transfer:
    """Addresses, time limits and retries of a download.

    Args:
        mirror: Address of the folder that holds the files.
        timeout: Seconds to wait for a connection, and for each next block.
        retries: Attempts in a row without a new byte before giving up.
        pause: Seconds before the second attempt, doubled before each further one.
        progress: Show a progress bar on stderr.
    """

    mirror: str = DATASET_URL
    timeout: float = 30.0
    retries: int = 4
    pause: float = 1.0
    progress: bool = True


class _TransferError(Exception):
    """A transfer that is worth another attempt."""


def download(
    name: str,
    directory: Path,
    transfer: Transfer | None = None,
    *,
    sha256: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Fetch both files of a published dataset; a broken transfer continues where it stopped.

    Every file is checked (checksum where known, and structure) before it gets its final name.

    Args:
        name: OGBench's dataset name.
        directory: Folder for the files (made where missing).
        transfer: How to fetch.
        sha256: Expected checksums by split (`train`, `val`).
        overwrite: Replace files that are already there.

    Raises:
        UserError: If the files cannot be fetched, are damaged, or others are in the way.
    """
    transfer = transfer or Transfer()
    _check(transfer)
    files = DatasetFiles(directory, name)
    directory.mkdir(parents=True, exist_ok=True)
    existing = Manifest.read(files.manifest)
    if existing is not None and existing.origin == "generated" and not overwrite:
        raise UserError(
            f"{directory} already holds a generated {name}: "
            "replace it with --overwrite, or choose another --dataset-dir"
        )
    known = {} if existing is None or overwrite else existing.sha256
    checksums = {}
    with requests.Session() as session:
        for split, path in files.splits.items():
            expected = (sha256 or {}).get(split, known.get(path.name))
            if overwrite or not path.exists():
                _fetch_checked(session, path, transfer, expected)
            elif problem := _damage(path, expected):
                raise UserError(f"{path} is already there but {problem}: replace it with --overwrite")
            checksums[path.name] = sha256_of(path)
    manifest = Manifest(name, "downloaded", checksums, source=transfer.mirror, note="The published data.")
    manifest.write(files.manifest)
    return manifest


def _check(transfer: Transfer) -> None:
    if not transfer.mirror.startswith(("http://", "https://")):
        raise UserError(f"--mirror: expected an address that begins with https:// or http://, got {transfer.mirror!r}")
    if transfer.timeout <= 0 or transfer.retries < 1:
        raise UserError(
            f"--timeout, --retries: expected more than 0 seconds and at least 1 attempt, got {transfer.timeout} and "
            f"{transfer.retries}"
        )


def _fetch_checked(session: requests.Session, path: Path, transfer: Transfer, sha256: str | None) -> None:
    part = path.with_name(f"{path.name}.part")
    _fetch(session, f"{transfer.mirror.rstrip('/')}/{path.name}", part, transfer)
    if problem := _damage(part, sha256):
        part.unlink()
        raise UserError(f"the downloaded {path.name} {problem}; it was deleted: try again, or another --mirror")
    part.replace(path)


def _damage(path: Path, sha256: str | None) -> str | None:
    if sha256 is not None and (actual := sha256_of(path)) != sha256.lower():
        return f"has sha256 {actual}, expected {sha256.lower()}"
    problems = structure_problems(path)
    return f"is damaged ({'; '.join(problems)})" if problems else None


def _fetch(session: requests.Session, url: str, part: Path, transfer: Transfer) -> None:
    """Fetch into `part`, with as many attempts as bring new bytes."""
    failures = 0
    with tqdm(
        desc=url.rsplit("/", 1)[-1],
        unit="B",
        unit_scale=True,
        disable=not transfer.progress,
        mininterval=0.2 if sys.stderr.isatty() else 30.0,
    ) as bar:
        while True:
            before = _size(part)
            try:
                return _attempt(session, url, part, transfer, bar)
            except (
                _TransferError,
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as error:
                failures = 0 if _size(part) > before else failures + 1
                if failures >= transfer.retries:
                    raise UserError(_unreachable(url, error)) from error
                time.sleep(transfer.pause * 2 ** max(failures - 1, 0))


def _attempt(session: requests.Session, url: str, part: Path, transfer: Transfer, bar: "tqdm[None]") -> None:
    start = _size(part)
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with session.get(url, headers=headers, stream=True, timeout=transfer.timeout) as response:
        content_range = response.headers.get("Content-Range", "")
        if response.status_code == 416:
            # Nothing follows: the part is complete, or a leftover of another file.
            if content_range.rpartition("/")[2] == str(start):
                return
            part.unlink()
            raise _TransferError("the unfinished file did not fit the one on the server")
        if response.status_code in RETRY_STATUS:
            raise _TransferError(f"the server answered {response.status_code} {response.reason}")
        if not response.ok:
            raise UserError(f"{url}: the server answered {response.status_code} {response.reason}; is the name right?")
        # A server that ignores the range sends everything again.
        resumed = response.status_code == 206 and content_range.startswith(f"bytes {start}-")
        if response.status_code == 206 and not resumed:
            raise UserError(f"{url}: asked for bytes from {start}, the server sent {content_range!r}")
        bar.n = start if resumed else 0
        bar.total = bar.n + int(response.headers.get("Content-Length", 0)) or None
        with part.open("ab" if resumed else "wb") as file:
            for block in response.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unreachable(url: str, error: Exception) -> str:
    name = url.rsplit("/", 1)[-1].removesuffix(".npz").removesuffix("-val")
    if name in RECIPES:
        advice = f"the same command continues; without network, make a local sample: nfkern data generate {name}"
    else:
        advice = (
            "the same command continues; this dataset has no local recipe, but others do: "
            "see the names in nfkern data generate --help"
        )
    return f"cannot download {url} ({_reason(error)}): {advice}"


def _reason(error: Exception) -> str:
    """Return the innermost cause, without the addresses that urllib3 wraps around it."""
    causes = [getattr(error, "reason", None), *reversed(error.args)]
    inner = next((cause for cause in causes if isinstance(cause, Exception)), None)
    return _reason(inner) if inner else str(error).rpartition(": ")[2] or type(error).__name__
