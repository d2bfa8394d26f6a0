"""`nfkern bench quality`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nfkern.bench.studies.command import Piece, StudyCommand, chosen_names
from nfkern.bench.studies.quality import study
from nfkern.bench.studies.quality.policies import POLICIES, TRAININGS, fitted_width
from nfkern.bench.studies.quality.records import Results, Settings
from nfkern.bench.studies.quality.report import DEFAULT, REPORT
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
    trainings = TRAININGS

    densities: tuple[str, ...] = DEFAULT.densities
    """Which densities."""
    policies: tuple[str, ...] = DEFAULT.policies
    """Which policies."""
    parameters: int = DEFAULT.parameters
    """Numbers in the networks that act."""

    def changes(self, preset: Settings) -> dict[str, Any]:
        """Return densities, policies, size and steps; trials of a learning rate are as long as trainings."""
        check_least({"parameters": self.parameters})
        steps = {} if self.steps is None else {"steps": self.steps, "trial_steps": self.steps}
        return steps | {
            "densities": chosen_names("densities", self.densities, DENSITIES),
            "policies": chosen_names("policies", self.policies, POLICIES),
            "parameters": self.parameters,
        }

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
