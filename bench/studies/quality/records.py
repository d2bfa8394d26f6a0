"""Results of the study: one JSON document."""

from dataclasses import dataclass, field

from nfkern.bench.core.timing import Quantiles
from nfkern.bench.studies.records import StudyResults

TRUTH = "truth"
"""The name under which samples of the density itself are measured."""


@dataclass(frozen=True)
class Settings:
    """Settings of a study: what is measured, and how thoroughly.

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
    """Closeness of samples to the density, means over the contexts.

    Attributes:
        sliced_wasserstein: in units of actions.
        mmd: see `metrics.mmd`.
        covered, off_modes: see `metrics.mode_shares`.
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

    def __str__(self) -> str:
        """Return what was fitted to what."""
        return f"{self.policy} on {self.density}, seed {self.seed}"


@dataclass(kw_only=True)
class Results(StudyResults[Settings]):
    """Everything in one file."""

    condition = "density"

    threads: int = 1
    latencies: list[Latency] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the densities."""
        return self.settings.densities

    def forget_failures(self) -> None:
        """Remove trials without a finite loss, too."""
        super().forget_failures()
        self.trials = [trial for trial in self.trials if trial.loss is not None]
