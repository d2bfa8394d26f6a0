"""Checking dataset files: checksums, and whether they are what OGBench's loader expects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .archive import column_specs, read_npz
from .manifest import DatasetFiles, Manifest, sha256_of

REQUIRED = ("observations", "actions", "terminals")


@dataclass(frozen=True)
class Finding:
    """One check of one file; `problem` is None where it passed."""

    subject: str
    problem: str | None = None


def verify(files: DatasetFiles) -> list[Finding]:
    """Check both files of a dataset against their manifest and against OGBench's schema."""
    manifest = Manifest.read(files.manifest)
    findings = []
    for path in files.splits.values():
        if not path.exists():
            findings.append(Finding(path.name, "the file is missing"))
            continue
        if manifest is None:
            findings.append(Finding(f"{path.name}: no manifest, so no checksum to compare with"))
        else:
            findings.append(_checksum(path, manifest.sha256.get(path.name)))
        subject = f"{path.name}: structure"
        findings += [Finding(subject, problem) for problem in structure_problems(path)] or [Finding(subject)]
    return findings


def _checksum(path: Path, expected: str | None) -> Finding:
    subject = f"{path.name}: sha256"
    if expected is None:
        return Finding(subject, "the manifest names no checksum for this file")
    actual = sha256_of(path)
    return Finding(subject, None if actual == expected else f"expected {expected}, got {actual}")


def structure_problems(path: Path) -> list[str]:
    """Return what keeps a file from being a dataset in OGBench's schema; empty where nothing does.

    Every array is read once, which also checks the archive's own checksums.
    """
    try:
        specs = column_specs(path)
    # Whatever a damaged file raises, the answer is the same.
    except Exception as error:
        return [f"not a readable npz file ({error})"]
    missing = [key for key in REQUIRED if key not in specs]
    if missing:
        return [f"lacks {', '.join(missing)}; it holds {', '.join(specs) or 'nothing'}"]
    counts = {key: shape[0] if shape else 0 for key, (shape, _) in specs.items()}
    if len(set(counts.values())) > 1:
        return [f"columns differ in length: {counts}"]
    if counts["observations"] == 0:
        return ["holds no rows"]
    problems = []
    for key in specs:
        try:
            problems += _column_problems(key, read_npz(path, [key])[key])
        except ValueError as error:
            problems.append(f"{key} cannot be read ({error})")
    return problems


def _column_problems(key: str, column: np.ndarray) -> list[str]:
    if key == "terminals":
        return _terminal_problems(column)
    if column.dtype.kind not in "fiub":
        return [f"{key} must hold numbers, got dtype {column.dtype}"]
    bad = 0 if column.dtype.kind != "f" else int(column.size - np.count_nonzero(np.isfinite(column)))
    return [f"{key} holds {bad} values that are not finite"] if bad else []


def _terminal_problems(terminals: np.ndarray) -> list[str]:
    if terminals.ndim != 1:
        return [f"terminals must have shape (rows,), got {terminals.shape}"]
    if not np.isin(terminals, (0, 1)).all():
        return ["terminals must hold 0 and 1 only"]
    if not terminals[-1]:
        return ["the last row does not end an episode: the file is cut off"]
    ends = np.flatnonzero(terminals)
    short = int(np.count_nonzero(np.diff(ends, prepend=-1) < 2))
    return [f"{short} of {len(ends)} episodes have a single row, hence no transition"] if short else []
