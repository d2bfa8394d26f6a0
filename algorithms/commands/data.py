"""The commands `nfkern data generate | download | import | export | verify | info`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from nfkern.algorithms.data.checks import verify
from nfkern.algorithms.data.files import dataset_files
from nfkern.algorithms.data.manifest import DEFAULT_DATASET_DIR, Manifest
from nfkern.algorithms.data.recipes import DemonstrationRecipe, data_name, find_recipe
from nfkern.algorithms.data.task_rewards import RELABEL_COLUMNS
from nfkern.algorithms.data.transitions import TransitionDataset
from nfkern.algorithms.envs.imitation import find
from nfkern.errors import UserError
from nfkern.host.packages import install_command

INTERRUPTED = 130


@dataclass(frozen=True)
class Generate:
    """Generate a real dataset locally, with OGBench's scripted oracles in MuJoCo or the experts of imitation tasks.

    The files follow OGBench's npz schema and its published recipe, but are another sample. The same seed gives the
    same files for any number of workers. An interrupted run continues when its command is repeated.
    Names: pointmaze-{medium,large,giant,teleport}-{navigate,stitch}-v0, cube-{single,double,triple,quadruple}-*,
    scene-*, puzzle-{3x3,4x4,4x5,4x6}-*, each -play-v0 or -noisy-v0; for imitation pointmass-scripted-v0,
    blockpush-scripted-v0 and metaworld-TASK-scripted-v0 (door-open, reach, ...; `pip install metaworld`).
    """

    name: tyro.conf.Positional[str]
    """The dataset's name."""
    transitions: int | None = None
    """Transitions of the training file, rounded up to whole episodes; a tenth of its episodes more for validation.
    By default as many as were published (1 million for most names)."""
    seed: int = 0
    """Seed of the whole dataset."""
    workers: int | None = None
    """Processes; by default one per available core."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Folder of the datasets."""
    overwrite: bool = False
    """Replace a dataset of this name that was made with other parameters."""

    def run(self) -> int:
        """Generate the dataset."""
        from nfkern.algorithms.data.generation.generate import GenerationPlan, finished, generate

        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers must be at least 1, got {self.workers}")
        directory = self.dataset_dir.expanduser()
        try:
            plan = GenerationPlan.from_transitions(find_recipe(self.name), self.transitions, self.seed)
            if not self.overwrite and finished(plan, directory) is not None:
                print(f"{plan.recipe.name} with these parameters is already in {directory}: nothing to do")
                return 0
            for package in plan.recipe.packages:
                _require(package)
            about = "about " if isinstance(plan.recipe, DemonstrationRecipe) else ""
            print(
                f"{plan.recipe.name}: {plan.train_episodes} + {plan.val_episodes} episodes of "
                f"{about}{plan.recipe.episode_rows - 1} transitions ({about}{plan.train_transitions} for training)"
            )
            manifest = generate(plan, directory, workers=self.workers, overwrite=self.overwrite)
        except ValueError as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt:
            print("\nInterrupted. Finished episodes are kept: repeat the command to continue.", file=sys.stderr)
            return INTERRUPTED
        for file, checksum in manifest.sha256.items():
            print(f"{directory / file}  sha256 {checksum}")
        print(manifest.note)
        return 0


@dataclass(frozen=True)
class Download:
    """Download a published OGBench dataset; a broken transfer continues when the command is repeated."""

    name: tyro.conf.Positional[str]
    """OGBench's dataset name."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Folder of the datasets."""
    mirror: str | None = None
    """Address of a folder that holds the files, instead of OGBench's own server."""
    sha256: str | None = None
    """Expected checksum of the training file."""
    sha256_val: str | None = None
    """Expected checksum of the validation file."""
    timeout: float = 30.0
    """Seconds to wait for the server."""
    retries: int = 4
    """Attempts in a row without progress before giving up."""
    overwrite: bool = False
    """Replace files that are already there."""

    def run(self) -> int:
        """Download the dataset."""
        _require("requests")
        from nfkern.algorithms.data.download import DATASET_URL, Transfer, download

        directory = self.dataset_dir.expanduser()
        transfer = Transfer(self.mirror or DATASET_URL, timeout=self.timeout, retries=self.retries)
        checksums = {split: value for split, value in (("train", self.sha256), ("val", self.sha256_val)) if value}
        try:
            manifest = download(data_name(self.name), directory, transfer, sha256=checksums, overwrite=self.overwrite)
        except KeyboardInterrupt:
            print("\nInterrupted. What arrived is kept: repeat the command to continue.", file=sys.stderr)
            return INTERRUPTED
        for file, checksum in manifest.sha256.items():
            print(f"{directory / file}  sha256 {checksum}")
        return 0


@dataclass(frozen=True)
class Import:
    """Make a dataset from demonstrations, or data with rewards, as others publish them.

    Reads Diffusion Policy's zarr (folder or zip), robomimic's HDF5, LeRobot's parquet (v2.1 and v3), Minari's HDF5 and
    Arrow, D4RL's flat HDF5, the relay kitchen arrays of BeT and VQ-BeT, and npz files with observations, actions and
    terminals, timeouts or episode_ends. Every row is kept, or counted by the reason why it is not.
    """

    source: tyro.conf.Positional[Path]
    """The file or folder; its format is told by what it holds."""
    name: str
    """Of the dataset: pusht-human-v0 and kitchen-human-v0 can be evaluated in their environments."""
    observation_keys: str | None = None
    """Arrays that make up the observation, with commas, in this order; by default those that the format names."""
    action_key: str | None = None
    """The array of actions."""
    split_masks: str | None = None
    """Names of robomimic's lists of episodes for training and validation, with a comma; default train,valid."""
    terminals: Literal["end", "cut"] | None = None
    """What an episode's end means where the source does not say: the environment's end (nothing comes after it), or
    that the recording was cut."""
    last_row: Literal["step", "state"] | None = None
    """What an episode's last row is where the source does not say: a step, or the state in which it ended."""
    rewards: bool = True
    """Read rewards, where there are any."""
    validation: float = 0.1
    """Share of the episodes for validation, where the source has no splits of its own."""
    seed: int = 0
    """Seed of the choice of these."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Folder of the datasets."""
    overwrite: bool = False
    """Replace a dataset of this name."""

    def run(self) -> int:
        """Import the dataset."""
        from nfkern.algorithms.data.importing import ImportOptions
        from nfkern.algorithms.data.importing.convert import import_demonstrations

        directory = self.dataset_dir.expanduser()
        options = ImportOptions(
            observation_keys=_names(self.observation_keys),
            action_key=self.action_key,
            split_masks=_names(self.split_masks),
            terminals=self.terminals,
            last_row=self.last_row,
            rewards=self.rewards,
        )
        try:
            manifest = import_demonstrations(
                self.source.expanduser(),
                self.name,
                directory,
                validation=self.validation,
                seed=self.seed,
                overwrite=self.overwrite,
                options=options,
            )
        except ValueError as error:
            raise UserError(str(error)) from error
        for file, checksum in manifest.sha256.items():
            print(f"{directory / file}  sha256 {checksum}")
        print(manifest.note, *manifest.parameters["notes"], sep="\n  ")
        return 0


@dataclass(frozen=True)
class Export:
    """Write a dataset for other libraries: as Minari's, which MINARI_DATASETS_PATH says where to keep."""

    name: tyro.conf.Positional[str]
    """The dataset's name, or the path of an npz file."""
    minari_id: tyro.conf.Positional[str]
    """Minari's name for it, such as pointmaze/medium-navigate-v0."""
    split: Literal["train", "val"] = "train"
    """Which of the dataset's files."""
    env: str | None = None
    """Id of a registered gymnasium environment, for those who evaluate on it."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Folder of the datasets."""

    def run(self) -> int:
        """Export the dataset."""
        _require("minari")
        _require("gymnasium")
        from nfkern.algorithms.data.minari_writing import write_minari

        data = TransitionDataset.load(self.name, self.dataset_dir, split=self.split, extras=RELABEL_COLUMNS)
        try:
            steps = write_minari(data, self.minari_id, env=self.env, description=f"{data.name}, exported by nfkern")
        except KeyboardInterrupt:
            print("\nInterrupted. Nothing was kept.", file=sys.stderr)
            return INTERRUPTED
        rewards = "its rewards" if data.rewards is not None else "rewards of 0, for it has none"
        print(f"{self.minari_id}: {steps:,} steps in {data.episodes:,} episodes, {rewards}")
        return 0


@dataclass(frozen=True)
class Verify:
    """Check a dataset's files: checksums, schema, episode ends, finite values, equal features in both splits.

    What passes can be trained on, and what fails cannot.
    """

    name: tyro.conf.Positional[str]
    """The dataset's name, or the path of an npz file; a validation file beside it is checked, too."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Folder of the datasets."""

    def run(self) -> int:
        """Print one line per check; 1 if any failed."""
        findings = verify(self.name, self.dataset_dir)
        for finding in findings:
            print(
                f"ok      {finding.subject}"
                if finding.problem is None
                else f"FAILED  {finding.subject}: {finding.problem}"
            )
        return int(any(finding.problem is not None for finding in findings))


@dataclass(frozen=True)
class Info:
    """Show a dataset's origin, sizes, episodes, value ranges and, for mazes, where it has been."""

    name: tyro.conf.Positional[str]
    """The dataset's name, or the path of an npz file."""
    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Folder of the datasets."""
    every_dimension: bool = False
    """Show all features, not only the first dozen."""
    tasks: bool = False
    """Also show how many episodes pass through the goals of OGBench's evaluation tasks (this builds their
    environments; the data themselves store no success)."""
    plot: Path | None = None
    """Also save a picture here (png, pdf or svg)."""

    def run(self) -> int:
        """Print the description."""
        from nfkern.algorithms.data.summary import describe, solved_shares

        if self.plot is not None and self.plot.suffix not in (".png", ".pdf", ".svg"):
            raise UserError(f"--plot: expected a .png, .pdf or .svg file, got {self.plot}")

        path = Path(self.name).expanduser() if self.name.endswith(".npz") else None
        name = data_name(self.name) if path is None else path.stem.removesuffix("-val")
        if self.tasks and find(name) is not None:
            raise UserError(f"--tasks: expected a dataset of OGBench, whose tasks are relabelled, got {name}")
        # Only --tasks reads these columns, so nothing in them stops anything else.
        extras = RELABEL_COLUMNS if self.tasks else ()
        if path is None:
            files = dataset_files(self.name, self.dataset_dir)
            manifest, paths = files.manifest, files.splits
        else:
            manifest, paths = path.with_name(f"{name}.json"), {"file": path}
        sources = paths if path is not None else dict.fromkeys(paths, name)
        splits = {
            split: TransitionDataset.load(
                source, self.dataset_dir, split="train" if split == "file" else split, extras=extras
            )
            for split, source in sources.items()
        }
        for line in describe(name, Manifest.read(manifest), paths, splits, self.every_dimension):
            print(line)
        data = next(iter(splits.values()))
        if self.tasks:
            _require("ogbench")
            shares = solved_shares(name, data)
            tasks = ", ".join(f"task {task} {share:.1%}" for task, share in enumerate(shares, start=1))
            print(f"\nepisodes that pass through the goal of: {tasks}")
        elif data.rewards is not None:
            print(f"\nrewards: {data.rewards.min():.4g} to {data.rewards.max():.4g}; {_ends(data)}")
        elif find(name) is None:
            print("\nsuccess: the data store none; --tasks counts the episodes that pass through each evaluation goal")
        if self.plot is not None:
            _require("matplotlib")
            from nfkern.algorithms.data.plots import save_plot

            save_plot(name, data, self.plot)
            print(f"\npicture: {self.plot}")
        return 0


def _names(listed: str | None) -> tuple[str, ...]:
    return () if listed is None else tuple(name.strip() for name in listed.split(",") if name.strip())


def _ends(dataset: TransitionDataset) -> str:
    assert dataset.masks is not None
    masks = dataset.masks[dataset.locate(np.arange(len(dataset)))[0]]
    return f"{int((masks == 0).sum())} of {len(masks)} transitions end the task"


def _require(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise UserError(f"this needs the package {package}: {install_command(package)}")
