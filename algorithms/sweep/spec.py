"""The file that describes a sweep: algorithms, tasks, seeds and settings."""

import itertools
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfkern.algorithms.agents.registry import AGENTS
from nfkern.errors import UserError, reason

SEED_COUNT_LIMIT = 10_000


@dataclass(frozen=True)
class SweepRun:
    """One training run of a sweep.

    Attributes:
        name: its folder under the sweep's: <label>/<env-name>/seed-<seed>.
        label: what the table calls the runs that differ in nothing but seed and task.
        env_name: what it learns in.
        seed: its seed.
        settings: flags of `nfkern train` that do not depend on task and seed.
    """

    name: str
    label: str
    env_name: str
    seed: int
    algorithm: str
    settings: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of `nfkern train` without the folder and --resume."""
        return (self.algorithm, "--env-name", self.env_name, "--seed", str(self.seed), *self.settings)


@dataclass(frozen=True)
class Sweep:
    """All runs, and the cores and GPUs of each.

    Attributes:
        runs: in the order in which they start.
        cpus: cores of each run, and its --threads.
        gpus: GPUs of each run; a fraction shares one.
    """

    runs: tuple[SweepRun, ...]
    cpus: int
    gpus: float

    @classmethod
    def load(cls, path: Path) -> "Sweep":
        """Read a spec.

        Raises:
            UserError: the file is missing or no TOML, a key is unknown or missing, or two runs share a folder.
        """
        try:
            spec = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {reason(error)}") from None
        _check_keys(path, spec, {"seeds", "cpus", "gpus", "common", "runs"}, {"runs"})
        seeds = _seeds(path, spec.get("seeds", [0]))
        cpus, gpus = spec.get("cpus", 1), spec.get("gpus", 0)
        if not isinstance(cpus, int) or cpus < 1 or not isinstance(gpus, int | float) or gpus < 0:
            raise UserError(f"{path}: expected cpus, a whole number >= 1, and gpus >= 0, got {cpus!r} and {gpus!r}")
        common = spec.get("common", {})
        if not isinstance(spec["runs"], list) or not all(isinstance(each, dict) for each in (common, *spec["runs"])):
            raise UserError(f"{path}: expected a table [common] and tables [[runs]]")
        runs = [run for entry in spec["runs"] for run in _expand(path, common, entry, seeds)]
        names = [run.name for run in runs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"{path}: {twice[0]} comes twice; give one of its [[runs]] another label")
        return cls(tuple(runs), cpus, float(gpus))


def _expand(path: Path, common: dict[str, Any], entry: dict[str, Any], seeds: list[int]) -> list[SweepRun]:
    """The runs of one [[runs]] entry: each task with each seed."""
    # Keys may be spelt with _ or -, as flags may.
    settings = {key.replace("_", "-"): value for table in (common, entry) for key, value in table.items()}
    algorithm, label = settings.pop("algorithm", None), settings.pop("label", None)
    if algorithm not in AGENTS:
        raise UserError(f"{path}: expected algorithm, one of {', '.join(AGENTS)}, in each [[runs]], got {algorithm!r}")
    env_names = settings.pop("env-name", None)
    env_names = [env_names] if isinstance(env_names, str) else env_names
    if not isinstance(env_names, list) or not env_names or not all(isinstance(name, str) for name in env_names):
        raise UserError(f"{path}: expected env-name, a name or a list of names, in each [[runs]], got {env_names!r}")
    reserved = sorted({"seed", "seeds", "run-dir", "resume", "threads"} & settings.keys())
    if reserved:
        raise UserError(f"{path}: the sweep itself decides {reserved[0]}; leave it out (seeds and cpus stand above)")
    flags = tuple(flag for key, value in settings.items() for flag in _flags(path, key, value))
    label = str(label or algorithm)
    return [
        SweepRun(
            f"{label}/{env_name}/seed-{seed}",
            label,
            env_name,
            seed,
            algorithm,
            flags,
        )
        for env_name, seed in itertools.product(env_names, seeds)
    ]


def _flags(path: Path, key: str, value: Any) -> list[str]:
    """A setting as `nfkern train` takes it."""
    if isinstance(value, bool):
        return [f"--{key}" if value else f"--no-{key}"]
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, str | int | float) for each in values):
        raise UserError(f"{path}: expected {key} to be a number, a string, true, false or a list, got {value!r}")
    return [f"--{key}", *(each if isinstance(each, str) else json.dumps(each) for each in values)]


def _seeds(path: Path, seeds: Any) -> list[int]:
    if type(seeds) is int and 0 < seeds < SEED_COUNT_LIMIT:
        return list(range(seeds))
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UserError(f"{path}: expected seeds, how many or a list of them, got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: expected seeds that differ, got {seeds!r}")
    return seeds


def _check_keys(path: Path, table: dict[str, Any], known: set[str], needed: set[str]) -> None:
    unknown, missing = sorted(table.keys() - known), sorted(needed - table.keys())
    if unknown:
        raise UserError(f"{path}: expected {', '.join(sorted(known))} at the top, got {unknown[0]}")
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing")
