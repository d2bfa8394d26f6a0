"""Checking dataset files: checksums, and whether the loader can read them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .archive import column_names
from .files import dataset_file, has_validation
from .manifest import DEFAULT_DATASET_DIR, recorded_sha256, sha256_of
from .reading import OUTCOMES, REQUIRED, read_column, rows_not_finite
from .transitions import TransitionDataset, difference


@dataclass(frozen=True)
class Finding:
    """One check of one file; `problem` is None where it passed."""

    subject: str
    problem: str | None = None


def verify(source: str | Path, dataset_dir: Path = DEFAULT_DATASET_DIR) -> list[Finding]:
    """Check the files that a training reads: against their manifest, by the loader's own rules, and with each other.

    Args:
        source: A dataset's name, or the path of an npz file, whose validation file is checked where one lies beside it.
        dataset_dir: Where names are looked up.
    """
    names = ("train", "val") if has_validation(source, dataset_dir) else ("train",)
    paths = [dataset_file(source, dataset_dir, split) for split in names]
    findings = [finding for path in paths for finding in _verify_file(path)]
    if len(paths) > 1 and not any(finding.problem for finding in findings):
        train, val = (TransitionDataset.read(path, rewards=False, trusted=True) for path in paths)
        subject = f"{paths[0].name} and {paths[1].name}: features of both"
        findings.append(Finding(subject, difference(train, val)))
    return findings


def _verify_file(path: Path) -> list[Finding]:
    """Check one data file: it passes exactly if `TransitionDataset.load` reads it."""
    if not path.is_file():
        return [Finding(path.name, "the file is missing")]
    checksum, problems = _checksum(path), structure_problems(path)
    notes = [] if problems else list(_notes(path))
    if checksum.problem:
        # The loader refuses such a file anyway: here is where it is damaged, if it is.
        problems, notes = problems + notes, []
    subject = f"{path.name}: structure"
    structure = [Finding(subject, problem) for problem in problems] or [Finding(subject)]
    return [checksum, *structure, *(Finding(f"{path.name}: {note}") for note in notes)]


def _checksum(path: Path) -> Finding:
    expected = recorded_sha256(path)
    if expected is None:
        return Finding(f"{path.name}: no manifest names a checksum to compare with")
    actual = sha256_of(path)
    return Finding(f"{path.name}: sha256", None if actual == expected else f"expected {expected}, got {actual}")


def structure_problems(path: Path) -> list[str]:
    """Return what keeps a file from being loaded; empty where nothing does."""
    try:
        TransitionDataset.read(path)
    except ValueError as error:
        return [f"{error}{_for_imitation(path)}"]
    return []


def _for_imitation(path: Path) -> str:
    try:
        TransitionDataset.read(path, rewards=False)
    except ValueError:
        return ""
    return " (offline RL refuses the file; what reads no rewards and masks trains on it)"


def _notes(path: Path) -> Iterator[str]:
    """Notes on a loadable file that some algorithm cannot read."""
    present = column_names(path)
    alone = [key for key in OUTCOMES if key in present]
    if len(alone) == 1:
        yield f"{alone[0]} without {OUTCOMES[alone[0] == OUTCOMES[0]]}: not read, and offline RL refuses the file"
    for key in present:
        if key in (*REQUIRED, *OUTCOMES):
            continue
        try:
            if rows_not_finite(read_column(path, key)) is not None:
                yield f"{key} holds values that are not finite: what reads it refuses the file"
        except ValueError as error:
            yield f"{error}: what reads it refuses the file"
