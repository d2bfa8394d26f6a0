"""The runs of a report: those that differ only in their seed together, with the evaluation that all have in common."""

from dataclasses import dataclass
from pathlib import Path

from nfkern.algorithms.evaluation.result import EvaluationResult
from nfkern.algorithms.runs.checkpoint import Checkpoint
from nfkern.algorithms.runs.run import Run


@dataclass(frozen=True)
class EvaluatedRun:
    """A run, its newest checkpoint, and that checkpoint's evaluations by their starts, each with its file."""

    run: Run
    checkpoint: Checkpoint
    evaluations: dict[str, tuple[EvaluationResult, Path]]

    @classmethod
    def open(cls, path: Path) -> "EvaluatedRun":
        """Read a run.

        Raises:
            UserError: the folder is no run, or has no checkpoint.
        """
        run = Run(path)
        checkpoint = run.latest_checkpoint()
        run.check_on_dataset()
        evaluations = {}
        for file in run.evaluations.files(checkpoint.step):
            result = EvaluationResult.load(file)
            evaluations[result.settings.starts] = (result, file)
        return cls(run, checkpoint, evaluations)


@dataclass(frozen=True)
class Group:
    """Runs of one algorithm on one environment that differ only in their seed, and their common evaluation."""

    env_name: str
    label: str
    members: list[EvaluatedRun]
    starts: str | None

    @property
    def first(self) -> Run:
        """The first run."""
        return self.members[0].run

    @property
    def evaluations(self) -> list[EvaluationResult]:
        """One for each run, on the same starts; empty if the report's runs have none in common."""
        return [] if self.starts is None else [member.evaluations[self.starts][0] for member in self.members]


def group_runs(runs: list[EvaluatedRun]) -> list[Group]:
    """Group by everything but the seed, in the order given; equal names are told apart by their folders."""
    found: dict[str, dict[int, EvaluatedRun]] = {}
    for each in runs:
        found.setdefault(each.run.seed_group(each.checkpoint), {})[each.run.seed] = each
    firsts = [next(iter(members.values())).run for members in found.values()]
    names = [(run.env_name, run.algorithm) for run in firsts]
    groups = []
    for (env_name, algorithm), first, members in zip(names, firsts, found.values(), strict=True):
        label = algorithm if names.count((env_name, algorithm)) == 1 else f"{algorithm} ({first.path})"
        starts = _common_starts([each for each in runs if each.run.env_name == env_name])
        groups.append(Group(env_name, label, list(members.values()), starts))
    return groups


def _common_starts(runs: list[EvaluatedRun]) -> str | None:
    """Return the starts of the longest evaluation that all runs have; None where they have none in common."""
    common = set.intersection(*(set(run.evaluations) for run in runs))
    results = runs[0].evaluations
    return max(common, key=lambda key: (results[key][0].settings.episodes_per_task, key), default=None)
