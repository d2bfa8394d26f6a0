"""The command of a study: pieces of work that its results lack, each written as soon as it is done.

A study is policies x conditions x seeds. First every policy is timed as it acts, then come the study's own pieces.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.policy import Policy as ActingPolicy
from nfkern.algorithms.training.loop import Interrupted
from nfkern.bench.core.environment import Environment, current_environment
from nfkern.bench.core.files import check_writable
from nfkern.bench.core.timing import Budget
from nfkern.bench.studies import records
from nfkern.bench.studies.policies import Policy, Training, time_acting
from nfkern.bench.studies.records import StudyResults
from nfkern.bench.studies.report import QUICK, Report, check_reports, differing, write_reports
from nfkern.errors import UserError, check_least

Results = TypeVar("Results", bound=StudyResults[Any])
Made = TypeVar("Made")


@dataclass(frozen=True)
class Piece:
    """A piece of work: its name, and what does it and adds to the results."""

    name: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Study(ABC, Generic[Results]):
    """Options and course of every study."""

    report: ClassVar[Report[Any]]
    trainings: ClassVar[Mapping[str, Training]]
    latency: ClassVar[type[Any]]
    """A row of condition, policy, number of observations and quantiles."""
    acting: ClassVar[Budget]
    """How long to time each policy."""
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
        """Measure and write; 0, 1 if something failed, 130 if interrupted."""
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
        """Return the settings that the options ask for, or refuse an option."""
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

    def pieces(self, results: Results) -> Iterator[Piece]:
        """Yield the work that the results lack."""
        for name in results.conditions:
            if not results.times(name):
                yield Piece(f"{name}: times of acting", partial(self._time, results, name))
        yield from self.work(results)

    @abstractmethod
    def work(self, results: Results) -> Iterator[Piece]:
        """Yield the work that the results lack besides the times of acting."""

    @abstractmethod
    def untrained(self, results: Results, condition: str, training: Training) -> BehavioralCloning:
        """Return an agent with random weights."""

    @abstractmethod
    def inputs(self, results: Results, condition: str) -> Sequence[tuple[Any, ...]]:
        """Return arguments of `act` to time, for one robot and for many."""

    @abstractmethod
    def prepare(self, results: Results) -> None:
        """Refuse what could only fail later, before the first piece."""

    def environment(self) -> Environment:
        """Return the machine, and the versions on which numbers depend."""
        return current_environment(torch.device("cpu"))

    def trained(self, results: Results) -> dict[Training, list[Policy]]:
        """Return the trainings that can run here, each with its policies."""
        found: dict[Training, list[Policy]] = {}
        for name in results.settings.policies:
            policy = self.report.policies[name]
            if name not in results.skipped:
                found.setdefault(self.trainings[policy.training], []).append(policy)
        return found

    def _time(self, results: Results, condition: str) -> None:
        """Policies take turns; their weights are untrained, which changes no time."""
        acting: dict[str, ActingPolicy] = {}
        for training, policies in self.trained(results).items():
            agent = self.untrained(results, condition, training)
            acting |= {policy.name: policy.acting_agent(agent).freeze() for policy in policies}
        found = time_acting(acting, self.inputs(results, condition), self.acting)
        results.latencies += [self.latency(condition, *each) for each in found]

    def _empty(self, settings: Any) -> Results:
        results: Results = self.report.kind(
            settings=settings,
            environment=self.environment(),
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
            skipped={name: reason for name in settings.policies if (reason := self._missing(name))},
            **self.material(settings),
        )
        return results

    def _missing(self, policy: str) -> str:
        return self.trainings[self.report.policies[policy].training].missing()

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
    """Return the wanted names in the order of the known ones; refuse others, and none at all."""
    if not wanted:
        raise UserError(f"--{option}: expected at least one")
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"--{option}: expected some of {', '.join(known)}, got {unknown[0]!r}")
    return tuple(name for name in known if name in wanted)


def attempt(make: Callable[[], Made]) -> tuple[Made | None, str | None]:
    """Return what is made, or the error in one line: what breaks one policy must not take the others with it."""
    try:
        return make(), None
    except (Interrupted, UserError):
        raise
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"
