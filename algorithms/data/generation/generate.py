"""Generating a dataset with several worker processes, resumably and reproducibly."""

import importlib.metadata
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from nfkern import __version__
from nfkern.algorithms.data.manifest import DatasetFiles, Manifest, sha256_of
from nfkern.algorithms.data.recipes import DemonstrationRecipe, PointMazeRecipe, Recipe
from nfkern.errors import UserError
from nfkern.host.interrupts import deferred_signals

from .episodes import EpisodeStore, describe_differences
from .seeding import SPLITS, episode_seed

# To be raised by every change after which the same seed gives other data.
GENERATOR_VERSION = 1
# OGBench publishes one validation episode per ten training episodes.
TRAIN_EPISODES_PER_VAL_EPISODE = 10


@dataclass(frozen=True)
class GenerationPlan:
    """Everything that the data depend on.

    Args:
        recipe: What to collect.
        train_episodes: Episodes of the training file.
        val_episodes: Episodes of the validation file, at least 1 (OGBench cannot load an empty file).
        seed: Seed of the whole dataset.
    """

    recipe: Recipe
    train_episodes: int
    val_episodes: int
    seed: int = 0

    def __post_init__(self) -> None:
        for argument, least in {"train_episodes": 1, "val_episodes": 1, "seed": 0}.items():
            if getattr(self, argument) < least:
                raise ValueError(f"{argument} must be at least {least}, got {getattr(self, argument)}")
        if self.recipe.episode_rows < 2:
            raise ValueError(f"episode_rows must be at least 2 (one transition), got {self.recipe.episode_rows}")

    @classmethod
    def from_transitions(cls, recipe: Recipe, transitions: int | None = None, seed: int = 0) -> "GenerationPlan":
        """Plan whole episodes with at least `transitions` transitions for training and a tenth for validation.

        Args:
            recipe: What to collect.
            transitions: Transitions of the training file; by default as many as were published.
            seed: Seed of the whole dataset.
        """
        per_episode = recipe.episode_rows - 1
        if transitions is not None and transitions < 1:
            raise ValueError(f"transitions must be at least 1, got {transitions}")
        train = recipe.episodes if transitions is None else math.ceil(transitions / per_episode)
        return cls(recipe, train, max(1, train // TRAIN_EPISODES_PER_VAL_EPISODE), seed)

    @property
    def train_transitions(self) -> int:
        """Transitions of the training file, about so many of demonstrations: the last row has no successor."""
        return self.train_episodes * (self.recipe.episode_rows - 1)

    @property
    def episodes(self) -> list[tuple[str, int]]:
        """All (split, index) pairs."""
        counts = dict(zip(SPLITS, (self.train_episodes, self.val_episodes), strict=True))
        return [(split, index) for split, count in counts.items() for index in range(count)]

    @property
    def parameters(self) -> dict[str, Any]:
        """The plan as JSON values, as manifests hold it."""
        parameters: dict[str, Any] = json.loads(json.dumps({"generator_version": GENERATOR_VERSION, **asdict(self)}))
        return parameters

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that decide the bytes."""
        return {package: importlib.metadata.version(package) for package in self.recipe.packages}


class Collector(Protocol):
    """Collects single episodes; one per worker."""

    def collect(self, seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
        """Return one episode in OGBench's schema, a function of the seed alone."""


def make_collector(recipe: Recipe) -> Collector:
    """Return the collector of a recipe's family (this imports its simulator)."""
    if isinstance(recipe, PointMazeRecipe):
        from .point_maze import PointMazeCollector

        return PointMazeCollector(recipe)
    if isinstance(recipe, DemonstrationRecipe):
        from .demonstrations import DemonstrationCollector

        return DemonstrationCollector(recipe)
    from .manipulation import ManipulationCollector

    return ManipulationCollector(recipe)


def generate(
    plan: GenerationPlan,
    directory: Path,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Generate a dataset, or continue an interrupted generation.

    The files depend on the plan and on the installed versions alone: not on `workers`, and not on interruptions.
    Workers are spawned, so a script that calls this needs the usual `if __name__ == "__main__":` guard.

    Args:
        plan: What to generate.
        directory: Folder for NAME.npz, NAME-val.npz and NAME.json (made where missing).
        workers: Processes; by default one per available core.
        overwrite: Replace a dataset of this name that was made with other parameters.
        progress: Show a progress bar on stderr.

    Returns:
        The manifest. An equal dataset that is already there is left alone.

    Raises:
        UserError: If other data of this name are in the way, or a worker failed.
        KeyboardInterrupt: On Ctrl-C; finished episodes are kept, and the same call continues.
    """
    files = DatasetFiles(directory, plan.recipe.name)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    existing = finished(plan, directory)
    if existing is not None and not overwrite:
        return existing
    versions = plan.versions
    parameters = {**plan.parameters, "versions": versions}
    store = EpisodeStore(files.partial)
    if not overwrite and not store.matches(parameters):
        _refuse_other_data(plan, files)
    store.open(parameters, discard_other=overwrite)

    _collect_missing(plan, store, workers or _available_cores(), progress)
    return _finish(plan, store, files, versions)


def finished(plan: GenerationPlan, directory: Path) -> Manifest | None:
    """Return the manifest of an equal dataset that is complete in `directory`, or None."""
    files = DatasetFiles(directory, plan.recipe.name)
    manifest = Manifest.read(files.manifest)
    if manifest is None or manifest.parameters != plan.parameters:
        return None
    return manifest if all(path.exists() for path in files.splits.values()) else None


def _refuse_other_data(plan: GenerationPlan, files: DatasetFiles) -> None:
    present = [path.name for path in (*files.splits.values(), files.manifest) if path.exists()]
    if not present:
        return
    manifest = Manifest.read(files.manifest)
    if manifest is None:
        difference = "without a manifest"
    elif manifest.origin == "downloaded":
        difference = "downloaded"
    else:
        difference = describe_differences(manifest.parameters, plan.parameters) or "incomplete"
    raise UserError(
        f"{files.directory} already holds {', '.join(present)} ({difference}): "
        "replace it with --overwrite, or choose another --dataset-dir"
    )


def _finish(plan: GenerationPlan, store: EpisodeStore, files: DatasetFiles, versions: dict[str, str]) -> Manifest:
    counts = {"train": plan.train_episodes, "val": plan.val_episodes}
    joined = {split: store.folder / path.name for split, path in files.splits.items()}
    for split, path in joined.items():
        store.join(split, counts[split], path)
    manifest = Manifest(
        name=plan.recipe.name,
        origin="generated",
        sha256={path.name: sha256_of(path) for path in joined.values()},
        parameters=plan.parameters,
        versions={"nfkern": __version__, **versions},
        note=plan.recipe.note,
    )
    # The episodes go last: until then the same command repeats this step.
    for split, path in joined.items():
        path.replace(files.splits[split])
    manifest.write(files.manifest)
    store.remove()
    return manifest


def _available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _collect_missing(plan: GenerationPlan, store: EpisodeStore, workers: int, progress: bool) -> None:
    missing = store.missing(plan.episodes)
    if not missing:
        return
    workers = min(workers, len(missing))
    context = multiprocessing.get_context("spawn")
    # One counter per worker, without a lock: a killed worker cannot leave one behind.
    counters = context.RawArray("q", workers)
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(plan, store, missing[k::workers], counters, k), daemon=True)
        for k in range(workers)
    ]
    try:
        with _ignored_interrupts():
            for process in processes:
                process.start()
        _watch(plan, processes, counters, len(missing), progress)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            if process.pid is not None:
                process.join()


@contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """Children started here inherit that Ctrl-C is the parent's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _watch(
    plan: GenerationPlan, processes: list[BaseProcess], counters: MutableSequence[int], missing: int, progress: bool
) -> None:
    total, per_episode = len(plan.episodes), plan.recipe.episode_rows - 1
    done = total - missing
    with tqdm(
        total=total * per_episode,
        initial=done * per_episode,
        desc=plan.recipe.name,
        unit=" transitions",
        unit_scale=True,
        disable=not progress,
        mininterval=0.2 if sys.stderr.isatty() else 30.0,
    ) as bar:
        running = list(processes)
        while running:
            wait([process.sentinel for process in running], timeout=0.2)
            # Read once: a worker whose files are closed already may have no code yet, and one a moment later.
            codes = {process: process.exitcode for process in running}
            for code in codes.values():
                if code not in (None, 0):
                    raise UserError(
                        f"a worker stopped with exit code {code}; finished episodes are kept: "
                        "run the same command again to continue"
                    )
            running = [process for process, code in codes.items() if code is None]
            now = total - missing + sum(counters)
            bar.set_postfix_str(f"{now}/{total} episodes", refresh=False)
            bar.update((now - done) * per_episode)
            done = now


def _work(
    plan: GenerationPlan,
    store: EpisodeStore,
    episodes: list[tuple[str, int]],
    counters: MutableSequence[int],
    worker: int,
) -> None:
    """Collect some episodes in a process of their own."""
    # Nothing is drawn here: this silences the search for a display when mujoco is imported.
    os.environ["MUJOCO_GL"] = "disabled"
    # Imports start processes (glfw asks one for its version), which print a traceback when nobody is left to listen.
    with deferred_signals(signal.SIGTERM) as signals:
        collector = make_collector(plan.recipe)
    if signals.received:
        return
    parent = multiprocessing.parent_process()
    for split, index in episodes:
        if parent is not None and not parent.is_alive():
            return
        store.write(split, index, collector.collect(episode_seed(plan.seed, split, index)))
        counters[worker] += 1
