"""`nfkern bench quality`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.files import check_writable
from nfkern.bench.core.timing import num_threads
from nfkern.bench.studies.checks import (
    check_environment,
    check_names,
    check_reports,
    check_settings,
    how_to_go_on,
)
from nfkern.bench.studies.policies import skipped
from nfkern.bench.studies.quality import records as storage
from nfkern.bench.studies.quality.building import fitted_width
from nfkern.bench.studies.quality.policies import POLICIES, TRAININGS
from nfkern.bench.studies.quality.records import Results, Settings
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.bench.studies.quality.study import Piece, timing_pieces, training_pieces, trainings
from nfkern.bench.studies.quality.tables import to_markdown
from nfkern.bench.studies.tables import write_reports
from nfkern.errors import UserError, check_least
from nfkern.host.progress import progress_bar

DEFAULT = Settings(tuple(DENSITIES), tuple(POLICIES))
QUICK = replace(
    DEFAULT, seeds=(0,), steps=100, trial_steps=100, learning_rates=(3e-3, 1e-2), contexts=4, samples=500, pairs=2000
)


@dataclass(frozen=True)
class Quality:
    """Train policies of equal size on known densities; say how near they come and what an action costs.

    Flow, Gaussian, mixture, diffusion, flow matching, distilled flow matching and spline flows see the same batches for
    as many steps; the learning rate of each is chosen from one grid by held-out loss, in trainings as long as the
    others. One thread. One to three hours on a core of its own. Every piece of work is in the file as soon as it is
    done: after Ctrl-C, the same command goes on.
    """

    out: Path
    """File of the results, JSON."""
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
    html: Path | None = None
    """Also write the results as a page that opens without network."""
    tables: Path | None = None
    """Also put the results' tables into this Markdown file, between its two marks."""
    retry: bool = False
    """Do again what failed."""
    overwrite: bool = False
    """Replace an existing file."""

    def run(self) -> int:
        """Measure and write; 0, 1 if a policy failed, 130 if interrupted."""
        settings = self._settings()
        check_reports(self.html, self.tables)
        results = self._earlier(settings) or _empty(settings)
        timing, training = list(timing_pieces(results)), list(training_pieces(results))
        if timing or training:
            check_writable(self.out)
            check_environment(self.out, results.environment, current_environment(torch.device("cpu")))
            _check_sizes(results)
        for name, reason in results.skipped.items():
            print(f"skipped: {name}: {reason}")
        try:
            with num_threads(1):
                self._work(results, timing, "density")
                self._work(results, training, "step")
        except KeyboardInterrupt:
            print(how_to_go_on(self.out, self.overwrite))
            return 130
        failed = [fit for fit in results.fits if fit.error]
        print(f"{len(results.fits)} fits in {self.out}")
        for fit in failed:
            print(f"failed: {fit.policy} on {fit.density}, seed {fit.seed}: {fit.error}")
        write_reports(self.out, self.html, self.tables, partial(to_markdown, results))
        return 1 if failed else 0

    def _work(self, results: Results, pending: Sequence[Piece], unit: str) -> None:
        """Piece by piece under a bar; each is written as soon as it is done."""
        with progress_bar(total=sum(piece.steps for piece in pending), unit=unit, disable=not pending) as progress:
            for piece in pending:
                progress.set_description(piece.name)
                piece.run(progress.update)
                storage.write(self.out, results)

    def _settings(self) -> Settings:
        check_names("densities", self.densities, DENSITIES)
        check_names("policies", self.policies, POLICIES)
        check_least({"steps": self.steps, "seeds": self.seeds, "parameters": self.parameters})
        chosen = replace(
            QUICK if self.quick else DEFAULT,
            densities=tuple(name for name in DENSITIES if name in self.densities),
            policies=tuple(name for name in POLICIES if name in self.policies),
            parameters=self.parameters,
        )
        if self.steps is not None:
            chosen = replace(chosen, steps=self.steps, trial_steps=self.steps)
        return chosen if self.seeds is None else replace(chosen, seeds=tuple(range(self.seeds)))

    def _earlier(self, settings: Settings) -> Results | None:
        if self.overwrite or not self.out.exists():
            return None
        results = storage.read(self.out)
        check_settings(self.out, results.settings, settings)
        if self.retry:
            results.fits = [row for row in results.fits if not row.error]
            results.trials = [row for row in results.trials if row.loss is not None]
        return results


def _check_sizes(results: Results) -> None:
    for name in results.settings.densities:
        for training in trainings(results):
            try:
                fitted_width(training, DENSITIES[name], results.settings.parameters)
            except ValueError as error:
                raise UserError(f"--parameters: {training.name} on {name}: {error}") from None


def _empty(settings: Settings) -> Results:
    environment = current_environment(torch.device("cpu"))
    missing = skipped(POLICIES, TRAININGS, settings.policies)
    return Results(settings, environment, 1, datetime.now(UTC).isoformat(timespec="seconds"), missing)
