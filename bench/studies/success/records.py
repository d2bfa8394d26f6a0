"""Results of the study: one JSON document."""

from dataclasses import dataclass, field

from nfkern.bench.core.timing import Quantiles
from nfkern.bench.studies.records import StudyResults


@dataclass(frozen=True)
class Settings:
    """Settings of a study: what is measured, and how thoroughly.

    Attributes:
        envs, policies: names, in the order of the tables.
        seeds: of initial weights, batches and the losses' noise; evaluations have the same starts for all.
        steps: gradient steps of a training.
        batch_size: transitions per step.
        learning_rate: its peak, after a linear warm-up and before a cosine decay.
        gamma: goals lie Geometric(1 - gamma) steps ahead.
        eval_interval: gradient steps between evaluations.
        eval_episodes: of each task, in the evaluations before the last.
        final_episodes: of each task, in the last one.
        parameters: numbers that the networks which act should have; None for each algorithm's own size.
        threads: CPU threads of the trainings.
        target: success, 0 to 1, to which the time of training is told; None for half of the best in an environment.
    """

    envs: tuple[str, ...]
    policies: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 5000
    batch_size: int = 256
    learning_rate: float = 1e-3
    gamma: float = 0.97
    eval_interval: int = 1000
    eval_episodes: int = 5
    final_episodes: int = 20
    parameters: int | None = None
    threads: int = 1
    target: float | None = None

    @property
    def warmup_steps(self) -> int:
        """The first tenth."""
        return self.steps // 10

    @property
    def log_interval(self) -> int:
        """Steps between the rows of a training's log, of whose speeds the median is taken."""
        return max(1, self.steps // 50)

    @property
    def steps_on_the_way(self) -> tuple[int, ...]:
        """The gradient steps of the evaluations before the last."""
        return tuple(range(self.eval_interval, self.steps, self.eval_interval))


@dataclass(frozen=True)
class Dataset:
    """Data of a training: transitions, sizes, and the training file's hash where a manifest tells it."""

    transitions: int
    observation_size: int
    action_size: int
    sha256: str | None


@dataclass(frozen=True)
class Latency:
    """Time per call of an agent's `act`, for `batch` observations and goals."""

    env: str
    policy: str
    batch: int
    quantiles: Quantiles


@dataclass(frozen=True)
class Trained:
    """A training, of which `error` says why it failed.

    Attributes:
        env, training, seed: what was trained on what.
        parameters: in the networks that act.
        steps_per_second: median over the rows of the training's log: batches, logging and checkpoints included,
            evaluations not.
        seconds: all that time together.
    """

    env: str
    training: str
    seed: int
    parameters: int = 0
    steps_per_second: float = 0.0
    seconds: float = 0.0
    error: str | None = None

    def __str__(self) -> str:
        """Return what was trained."""
        return f"{self.env}: training {self.training}, seed {self.seed}"


@dataclass(frozen=True)
class Evaluation:
    """A policy after some gradient steps: successes of `episodes` episodes of each task, or why there are none."""

    env: str
    policy: str
    seed: int
    step: int
    episodes: int
    successes: tuple[int, ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        """Return what was evaluated."""
        return f"{self.env}: {self.policy} after {self.step} steps, seed {self.seed}"

    @property
    def success(self) -> float:
        """Mean over tasks, 0 to 1."""
        return sum(self.successes) / (len(self.successes) * self.episodes)


@dataclass(kw_only=True)
class Results(StudyResults[Settings]):
    """Everything in one file."""

    condition = "env"

    datasets: dict[str, Dataset]
    latencies: list[Latency] = field(default_factory=list)
    trainings: list[Trained] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of the environments."""
        return self.settings.envs
