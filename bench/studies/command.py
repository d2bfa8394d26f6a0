"""The command of a study: pieces of work that its results lack, each written as soon as it is done."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from nfkern.algorithms.training.loop import Interrupted
from nfkern.bench.core.environment import Environment, current_environment
from nfkern.bench.core.files import check_writable
from nfkern.bench.studies import records
from nfkern.bench.studies.policies import Training, skipped
from nfkern.bench.studies.records import StudyResults
from nfkern.bench.studies.report import QUICK, Report, check_reports, differing, write_reports
from nfkern.errors import UserError, check_least

Results = TypeVar("Results", bound=StudyResults[Any])


@dataclass(frozen=True)
class Piece:
    """A piece of work: its name, and what does it and adds to the results."""

    name: str
    run: Callable[[], None]


@dataclass(frozen=True)
class StudyCommand(ABC, Generic[Results]):
    """Options and course of every study."""

    report: ClassVar[Report[Any]]
    trainings: ClassVar[Mapping[str, Training]]
    told_only: ClassVar[tuple[str, ...]] = ()
    """Settings that change what is told and not what is measured."""

    out: Path
    """File of the results, JSON."""
    html: Path | None = None
    """Also write the results as a page that opens without network."""
    tables: Path | None = None
    """Also put the results' tables into this Markdown file, between its two marks."""
    quick: bool = False
    """Two or three minutes: one seed and 100 steps, enough to try the study itself and for nothing else."""
    steps: int | None = None
    """Gradient steps of each training; trials of learning rates and intervals of evaluations follow from them."""
    seeds: int | None = None
    """Number of training seeds."""
    retry: bool = False
    """Do again what failed."""
    overwrite: bool = False
    """Replace an existing file, and runs that belong to it."""

    def run(self) -> int:
        """Measure and write; 0, 1 if a policy failed, 130 if interrupted."""
        settings = self.settings()
        check_reports(self.html, self.tables)
        results = self._earlier(settings) or self._empty(settings)
        pending = list(self.pieces(results))
        if pending:
            check_writable(self.out)
            if results.environment != self.environment():
                raise UserError(
                    f"{self.out} was measured elsewhere or with other versions, so it cannot be gone on with here: "
                    "choose another --out or --overwrite it"
                )
            self.prepare(results)
        left_out = [f"skipped: {name}: {reason}" for name, reason in results.skipped.items()]
        for line in (*self.report.warnings(results), *left_out):
            print(line)
        try:
            for number, piece in enumerate(pending, 1):
                print(f"[{number}/{len(pending)}] {piece.name}", flush=True)
                piece.run()
                records.write(self.out, results)
        except (Interrupted, KeyboardInterrupt):
            without = " without --overwrite" if self.overwrite else ""
            print(f"interrupted; {self.out} has what is finished: the same command{without} goes on")
            return 130
        failures = results.failures()
        print(f"{results.counted()} in {self.out}")
        for failure in failures:
            print(f"failed: {failure}")
        write_reports(self.report, results, self.out, self.html, self.tables)
        return 1 if failures else 0

    def settings(self) -> Any:
        """Return the settings that the options ask for.

        Raises:
            UserError: an option is wrong.
        """
        check_least({"steps": self.steps, "seeds": self.seeds})
        preset: Any = self.report.presets[QUICK if self.quick else ()]
        chosen = replace(preset, **self.changes(preset))
        return chosen if self.seeds is None else replace(chosen, seeds=tuple(range(self.seeds)))

    @abstractmethod
    def changes(self, preset: Any) -> dict[str, Any]:
        """Return the settings by which the study's own options and `steps` differ from a preset, checked."""

    def material(self, settings: Any) -> dict[str, Any]:
        """Return what the results have from the beginning besides settings, machine and date."""
        return {}

    @abstractmethod
    def pieces(self, results: Results) -> Iterator[Piece]:
        """Yield the work that the results lack."""

    @abstractmethod
    def prepare(self, results: Results) -> None:
        """Refuse what could only fail later, before the first piece.

        Raises:
            UserError: so it is.
        """

    def environment(self) -> Environment:
        """Return the machine, and the versions on which numbers depend."""
        return current_environment(torch.device("cpu"))

    def _empty(self, settings: Any) -> Results:
        results: Results = self.report.kind(
            settings=settings,
            environment=self.environment(),
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
            skipped=skipped(self.report.policies, self.trainings, settings.policies),
            **self.material(settings),
        )
        return results

    def _earlier(self, settings: Any) -> Results | None:
        if self.overwrite or not self.out.exists():
            return None
        results: Any = self.report.read(self.out)
        told = {name: getattr(settings, name) for name in self.told_only}
        if changed := differing(replace(results.settings, **told), settings):
            raise UserError(
                f"{self.out} was made with other {', '.join(changed)}: repeat its command to go on with it, choose "
                "another --out, or --overwrite it"
            )
        results.settings = settings
        if self.retry:
            results.forget_failures()
        return results  # type: ignore[no-any-return]


def chosen_names(option: str, wanted: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """Return the wanted names in the order of the known ones.

    Raises:
        UserError: a name is unknown, or there is none at all.
    """
    for name in wanted:
        if name not in known:
            raise UserError(f"--{option}: expected some of {', '.join(known)}, got {name!r}")
    if not wanted:
        raise UserError(f"--{option}: expected at least one")
    return tuple(name for name in known if name in wanted)


def described_error(error: Exception) -> str:
    """Return an error in one line, as records have it."""
    return f"{type(error).__name__}: {error}"
