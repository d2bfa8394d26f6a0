"""Demonstrations and datasets in the formats in which others publish them, turned into a dataset.

Every row of the source ends up in the dataset, or is counted in the manifest by the reason why it does not.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nfkern import __version__
from nfkern.algorithms.data.archive import Column, write_npz
from nfkern.algorithms.data.manifest import DatasetFiles, Manifest, sha256_of
from nfkern.errors import UserError
from nfkern.host.files import atomic_file

from . import ImportOptions, Rows, Source, Split, read_source, rows_of

# By what was counted: the sentence that says so.
COUNTED = {
    "repeated": "{} {episodes} with the last observation once more: the source has none after the last action",
    "breaks": "{} {times} the next observation is not that of the next row: an episode was cut there, and no row lost",
    "unknown": "left out: {} {transitions} where an episode was cut, because the source does not say what came next "
    "(the rows are kept; for imitation alone, --no-rewards keeps the transitions, too)",
    "empty": "left out: {} {episodes} of at most one row, from which no transition to a known state begins",
    "unsplit": "left out: {} {episodes} in neither split",
}


def import_demonstrations(
    source: Path,
    name: str,
    directory: Path,
    *,
    validation: float = 0.1,
    seed: int = 0,
    overwrite: bool = False,
    options: ImportOptions | None = None,
) -> Manifest:
    """Write a dataset from published files.

    Args:
        source: the file or folder.
        name: of the dataset; pusht-... and kitchen-... get the observations of those environments.
        directory: folder for NAME.npz, NAME-val.npz and NAME.json (made where missing).
        validation: share of the episodes for validation, at least one; the source's own splits win.
        seed: which ones.
        overwrite: replace a dataset of this name.
        options: what the source does not say itself.

    Returns:
        The manifest, whose parameters have the counts and notes.

    Raises:
        UserError: the source is not there, is of another format, or lacks something; or there is a dataset of this
            name already.
        ValueError: an argument is out of range.
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation: expected a share between 0 and 1, got {validation}")
    if seed < 0:
        raise ValueError(f"seed: expected at least 0, got {seed}")
    files = DatasetFiles(directory, name)
    present = [path.name for path in (*files.splits.values(), files.manifest) if path.exists()]
    if present and not overwrite:
        raise UserError(f"{directory} already holds {', '.join(present)}: replace it with --overwrite, or take another")
    read = read_source(source, options or ImportOptions(), name)
    episodes, splits = _episodes(read, source)
    notes = read.notes
    if not read.splits:
        splits, more = _random_splits(len(episodes), validation, seed)
        notes = notes + more
    chosen = {split: [e for e, s in zip(episodes, splits, strict=True) if split in s] for split in files.splits}
    if empty := [split for split, found in chosen.items() if not found]:
        raise UserError(f"{source}: expected episodes for both splits, got none for {', '.join(empty)}")
    notes = notes + [_counted(read.tally[key], text) for key, text in COUNTED.items() if read.tally[key]]
    notes += [
        f"{key}: {count} values are not finite and stay as they are: what reads {key} refuses the file"
        for key, count in ((each.removeprefix("not finite "), read.tally[each]) for each in sorted(read.tally))
        if count and f"not finite {key}" in read.tally
    ]
    if all(np.array_equal(episode["actions"], np.rint(episode["actions"])) for episode in episodes):
        notes.append("all actions are whole numbers: if they name choices, there is no policy here for them")
    sha256 = _write(files, chosen)
    rows, transitions = read.tally["rows"], sum(len(episode["terminals"]) - 1 for episode in episodes)
    manifest = Manifest(
        name=name,
        origin="imported",
        sha256=sha256,
        parameters={
            "format": read.kind,
            "validation": validation,
            "seed": seed,
            "source_rows": rows,
            "episodes": len(episodes),
            "transitions": transitions,
            "notes": notes,
        },
        versions={"nfkern": __version__},
        source=source.name,
        note=f"Imported from {source.name} ({read.kind}): {_counted(len(episodes), '{} {episodes}')}, "
        f"{len(chosen['val'])} of them for validation; {rows} rows of the source, {transitions} transitions.",
    )
    manifest.write(files.manifest)
    return manifest


def _counted(count: int, text: str) -> str:
    """Text with a count, and the words that follow it in the singular or plural."""
    plural = "" if count == 1 else "s"
    return text.format(count, **{f"{word}s": word + plural for word in ("episode", "time", "transition")})


def _episodes(read: Source, source: Path) -> tuple[list[Rows], list[tuple[Split, ...]]]:
    """The rows of every episode that has a transition and a split, and its split."""
    episodes: list[Rows] = []
    splits: list[tuple[Split, ...]] = []
    for steps, split in zip(read.episodes, read.splits or [None] * len(read.episodes), strict=True):
        rows = rows_of(steps, read.last_row, read.tally)
        if rows is None:
            continue
        shapes = {key: each.shape[1:] for key, each in rows.items()}
        if episodes and shapes != (first := {key: each.shape[1:] for key, each in episodes[0].items()}):
            raise UserError(f"{source}: expected the columns {first} of every episode, got {shapes} in {steps.label}")
        if read.splits and split is None:
            read.tally["unsplit"] += 1
            continue
        episodes.append(rows)
        splits.append(() if split is None else (split,))
    if not episodes:
        raise UserError(f"{source}: expected at least one episode with a transition, got none")
    return episodes, splits


def _random_splits(episodes: int, validation: float, seed: int) -> tuple[list[tuple[Split, ...]], list[str]]:
    if episodes == 1:
        return [("train", "val")], ["the one episode is in both splits: validation says nothing about other episodes"]
    order = np.random.default_rng(seed).permutation(episodes)
    held_out = set(order[: min(max(1, round(validation * episodes)), episodes - 1)].tolist())
    return [("val",) if episode in held_out else ("train",) for episode in range(episodes)], []


def _write(files: DatasetFiles, chosen: dict[str, list[Rows]]) -> dict[str, str]:
    """Write both files, of which none is replaced before both are there; their checksums."""
    with contextlib.ExitStack() as both:
        for split, path in files.splits.items():
            write_npz(both.enter_context(atomic_file(path)), _columns(chosen[split]))
    return {path.name: sha256_of(path) for path in files.splits.values()}


def _columns(episodes: Sequence[Rows]) -> Iterator[Column]:
    for name, first in episodes[0].items():
        pieces = [episode[name] for episode in episodes]
        yield Column(name, (sum(map(len, pieces)), *first.shape[1:]), first.dtype, pieces)
