"""Results of the study: one JSON document."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nfkern.bench.core.environment import Environment
from nfkern.bench.core.timing import Quantiles
from nfkern.bench.studies.documents import read_document, tuples, write_document

FORMAT_VERSION = 1
COMMAND = "nfkern bench quality"
TRUTH = "truth"
"""The name under which samples of the density itself are measured."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how thoroughly.

    Attributes:
        densities, policies: names, in the order of the tables.
        seeds: of initial weights, batches and the losses' noise.
        steps: gradient steps of a training.
        trial_steps: of each trial of a learning rate; where they are fewer, a rate may win at which trainings collapse.
        learning_rates: the grid, one for all policies.
        batch_size: rows per step.
        parameters: numbers that the networks which act should have.
        contexts: held-out contexts of the sample metrics.
        samples: per context.
        pairs: held-out pairs of the log-likelihood.
    """

    densities: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 3000
    trial_steps: int = 3000
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    batch_size: int = 128
    parameters: int = 64_000
    contexts: int = 8
    samples: int = 1000
    pairs: int = 10_000


@dataclass(frozen=True)
class Trial:
    """The held-out loss of a training on a seed of its own; `loss` is None if it is not finite."""

    density: str
    training: str
    learning_rate: float
    loss: float | None


@dataclass(frozen=True)
class Latency:
    """Time per call of an agent's `act`, for `batch` observations."""

    density: str
    policy: str
    batch: int
    quantiles: Quantiles


@dataclass(frozen=True)
class Scores:
    """How near samples are to the density, means over the contexts.

    Attributes:
        sliced_wasserstein: in units of actions.
        mmd: see `metrics.mmd`.
        covered: share of the modes that got at least half of their due.
        off_modes: share of the samples that are on no mode.
        nll: -mean log q(x | c) over held-out pairs, nats; None where the policy cannot tell.
    """

    sliced_wasserstein: float
    mmd: float
    covered: float
    off_modes: float
    nll: float | None


@dataclass(frozen=True)
class Fit:
    """A policy after its training, or the density itself. Exactly one of `scores` and `error` is set.

    Attributes:
        density, policy, seed: what was trained on what.
        learning_rate: chosen by the trials.
        parameters: in the networks that act.
        trained_parameters: in all networks that are trained.
        training_cpu_s: CPU seconds of all gradient steps, which other processes do not lengthen as they do wall time.
        loss: the training's own held-out loss at its end; None if it is not finite or was not taken.
        scores: of its samples.
        error: why there are none.
    """

    density: str
    policy: str
    seed: int
    learning_rate: float | None = None
    parameters: int = 0
    trained_parameters: int = 0
    training_cpu_s: float = 0.0
    loss: float | None = None
    scores: Scores | None = None
    error: str | None = None


@dataclass
class Results:
    """All that one file holds; `skipped` says of policies why they cannot run where it was measured."""

    settings: Settings
    environment: Environment
    threads: int
    started: str
    skipped: dict[str, str] = field(default_factory=dict)
    latencies: list[Latency] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)


def write(path: Path, results: Results) -> None:
    """Replace the file; raises as `write_document`."""
    write_document(path, {"format_version": FORMAT_VERSION}, results)


def read(path: Path) -> Results:
    """The results of a file; raises as `read_document`."""
    return read_document(path, COMMAND, _results)


def _results(data: dict[str, Any]) -> Results:
    if data["format_version"] != FORMAT_VERSION:
        raise ValueError(f"format_version: expected {FORMAT_VERSION}, got {data['format_version']!r}")
    return Results(
        settings=Settings(**tuples(data["settings"])),
        environment=Environment(**data["environment"]),
        threads=data["threads"],
        started=data["started"],
        skipped=dict(data["skipped"]),
        latencies=[Latency(**row | {"quantiles": Quantiles(**row["quantiles"])}) for row in data["latencies"]],
        trials=[Trial(**row) for row in data["trials"]],
        fits=[Fit(**row | {"scores": row["scores"] and Scores(**row["scores"])}) for row in data["fits"]],
    )
