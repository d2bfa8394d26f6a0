"""`nfkern bench quality`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from nfkern.bench.studies.command import Piece, StudyCommand, chosen_names
from nfkern.bench.studies.policies import skipped
from nfkern.bench.studies.quality import study
from nfkern.bench.studies.quality.policies import POLICIES, TRAININGS, fitted_width
from nfkern.bench.studies.quality.records import Results, Settings
from nfkern.bench.studies.quality.report import DEFAULT, QUICK, REPORT
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.errors import UserError, check_least


@dataclass(frozen=True)
class Quality(StudyCommand[Results]):
    """Train policies of equal size on known densities; say how near they come and what an action costs.

    Flow, Gaussian, mixture, diffusion, flow matching, distilled flow matching and spline flows see the same batches for
    as many steps; the learning rate of each is chosen from one grid by held-out loss, in trainings as long as the
    others. One thread. One to three hours on a core of its own. Every piece of work is in the file as soon as it is
    done: after Ctrl-C, the same command goes on.
    """

    report = REPORT

    quick: bool = False
    """Under three minutes: one seed and 100 steps, enough to try the study itself and for nothing else."""
    densities: tuple[str, ...] = DEFAULT.densities
    """Which densities."""
    policies: tuple[str, ...] = DEFAULT.policies
    """Which policies."""
    steps: int | None = None
    """Gradient steps of each training, and of each trial of a learning rate."""
    seeds: int | None = None
    """Number of training seeds."""
    parameters: int = DEFAULT.parameters
    """Numbers in the networks that act."""

    def settings(self) -> Settings:
        """Return the settings that the options ask for."""
        densities = chosen_names("densities", self.densities, DENSITIES)
        policies = chosen_names("policies", self.policies, POLICIES)
        check_least({"steps": self.steps, "seeds": self.seeds, "parameters": self.parameters})
        base = QUICK if self.quick else DEFAULT
        chosen = replace(base, densities=densities, policies=policies, parameters=self.parameters)
        if self.steps is not None:
            chosen = replace(chosen, steps=self.steps, trial_steps=self.steps)
        return chosen if self.seeds is None else replace(chosen, seeds=tuple(range(self.seeds)))

    def empty(self, settings: Settings) -> Results:
        """Return results without a measurement."""
        return Results(
            settings=settings,
            environment=self.environment(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            skipped=skipped(POLICIES, TRAININGS, settings.policies),
        )

    def pieces(self, results: Results) -> Iterator[Piece]:
        """Yield the work that the results lack."""
        return study.pieces(results)

    def prepare(self, results: Results) -> None:
        """Refuse a size that a policy cannot have."""
        for name in results.settings.densities:
            for training in study.trainings(results):
                try:
                    fitted_width(training, DENSITIES[name], results.settings.parameters)
                except ValueError as error:
                    raise UserError(f"--parameters: {training.name} on {name}: {error}") from None
