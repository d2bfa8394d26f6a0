"""`nfkern eval`: success of trained runs in the simulator."""

import contextlib
import dataclasses
import functools
import json
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import tyro

from nfkern.algorithms.agents.registry import AGENTS, load_policy
from nfkern.algorithms.envs.make import SuccessTiming, UnknownEnvironment, environment_id
from nfkern.algorithms.evaluation.blocks import Loader
from nfkern.algorithms.evaluation.evaluate import EnvironmentPool, make_settings
from nfkern.algorithms.evaluation.result import EvaluationResult, stack_outcomes
from nfkern.algorithms.evaluation.rollout import check_fits
from nfkern.algorithms.evaluation.statistics import Interval, PairedComparison, paired_comparison, success_interval
from nfkern.algorithms.evaluation.video import check_drawable, check_recordable, record_video
from nfkern.algorithms.runs.checkpoint import Checkpoint
from nfkern.algorithms.runs.evaluations import load_trajectories
from nfkern.algorithms.runs.run import Run
from nfkern.errors import UserError, check_least


@dataclass(frozen=True)
class Evaluate:
    """Evaluate trained runs in the simulator: success for each goal, with intervals.

    Every goal gets the same number of episodes. The result does not depend on --workers, and runs that are evaluated
    with the same --seed start from the same places. It is stored in RUN/evaluations, in a file of its own for each
    checkpoint and settings; the same command given again shows it, or goes on where it was interrupted.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, as nfkern train makes them."""
    paired: bool = False
    """Compare two runs episode by episode; of more runs, each two algorithms, their training seeds taken together."""
    episodes_per_task: int = 50
    """Episodes for each goal."""
    workers: int = 1
    """Processes."""
    seed: int = 0
    """Fixes starts, goals and the policy's randomness."""
    checkpoint: str = "latest"
    """The step whose checkpoint to evaluate, or latest."""
    eval_env: str | None = None
    """Evaluate in this environment, as nfkern train has it; default the one that the run's training used."""
    max_episode_steps: int | None = None
    """End episodes after so many steps instead of the benchmark's own limit."""
    success_timing: SuccessTiming | None = None
    """Judge success before or after the action; default the environment's own (OGBench 1.2: pre for single tasks)."""
    trajectories: bool = False
    """Store each episode's path too, in an .npz file beside the evaluation's."""
    video: Path | None = None
    """Write each goal's first episode to this .gif or .mp4 (of a single run)."""
    json: bool = False
    """Print JSON instead of the tables."""

    def run(self) -> int:
        """Evaluate, store and print; the exit code."""
        if not self.runs:
            raise UserError("expected at least one run directory")
        check_least({"max_episode_steps": self.max_episode_steps, "workers": self.workers})
        check_least({"seed": self.seed}, 0)
        if self.paired and len(self.runs) < 2:
            raise UserError(f"--paired compares two runs or more, got {len(self.runs)}")
        if self.video and len(self.runs) != 1:
            raise UserError(f"--video shows a single run, got {len(self.runs)}")
        policies = [_Policy.open(path, self.checkpoint, self.eval_env) for path in self.runs]
        groups = _groups(policies)
        sides = [[policy] for policy in policies] if len(policies) == 2 else groups
        pairs = _pairs(sides) if self.paired else []
        try:
            if self.video:
                check_recordable(self.video)
            results = {policy.path: self._evaluate(policy) for policy in policies}
            pools = [_Pool.of(group, results) for group in groups if len(group) > 1]
            comparisons = [_Comparison.of(*pair, results) for pair in pairs]
            if self.json:
                print(json.dumps(_as_json(policies, results, pools, comparisons), indent=1))
            else:
                print(_as_text(policies, results, pools, comparisons))
            if self.video:
                record_video(policies[0].loader, results[policies[0].path].settings, self.video)
                print(f"video: {self.video}", file=sys.stderr)
        except ValueError as error:
            raise UserError(str(error)) from error
        except KeyboardInterrupt:
            print("interrupted: what is finished is kept, the same command goes on from there", file=sys.stderr)
            return 130
        return 0

    def _evaluate(self, policy: "_Policy") -> EvaluationResult:
        """Return the stored result if it is of the same settings, else a new one, stored."""
        run, checkpoint = policy.run, policy.checkpoint
        limit, timing = self.max_episode_steps, self.success_timing
        pool = EnvironmentPool(policy.env_name, max_episode_steps=limit, success_timing=timing)
        with contextlib.closing(pool):
            if self.video:
                check_drawable(pool)
            if sizes := checkpoint.description.get("sizes"):
                check_fits(pool, sizes, goal_conditioned=AGENTS[run.algorithm].goal_conditioned)
            settings = make_settings(
                pool,
                episodes_per_task=self.episodes_per_task,
                seed=self.seed,
                record="xy" if self.trajectories else None,
                label=checkpoint.label,
            )
            stored = run.evaluations.find_same(checkpoint.step, settings)
            if stored and (settings.record is None or load_trajectories(*stored) is not None):
                print(f"{run.path}: stored in {stored[0]}", file=sys.stderr)
                return stored[1]
            print(f"{run.path}: evaluating the checkpoint of step {checkpoint.step}", file=sys.stderr)
            result = run.evaluations.evaluate(checkpoint.step, policy.loader, pool, settings, workers=self.workers)
            if len(self.runs) > 1:
                # The tables come when all are done.
                count = len(result.episodes)
                print(f"{run.path}: success {result.success_rate:.1%} of {count} episodes", file=sys.stderr)
            return result


@dataclass(frozen=True)
class _Policy:
    """A run's checkpoint and the environment to evaluate it in."""

    run: Run
    checkpoint: Checkpoint
    env_name: str

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def loader(self) -> Loader:
        return functools.partial(load_policy, self.checkpoint.path)

    @classmethod
    def open(cls, path: Path, step: str, eval_env: str | None) -> "_Policy":
        run = Run(path)
        run.check_on_dataset()
        if step == "latest":
            checkpoint = run.latest_checkpoint()
        else:
            found = {str(checkpoint.step): checkpoint for checkpoint in run.checkpoints()}
            if step.lstrip("0") not in found:
                raise UserError(f"{path} has no checkpoint {step!r}; it has {', '.join(found) or 'none'}")
            checkpoint = found[step.lstrip("0")]
        env_name = run.evaluated_in if eval_env is None else eval_env
        try:
            # Every run is checked before the first is evaluated.
            environment_id(env_name)
        except UnknownEnvironment as error:
            raise UserError(f"{path}: {error}; --eval-env names the environment to evaluate in") from error
        return cls(run, checkpoint, env_name)


def _groups(policies: list[_Policy]) -> list[list[_Policy]]:
    """Join policies that differ in nothing but the training seed, in the seeds' order."""
    groups: dict[str, dict[int, _Policy]] = {}
    for policy in policies:
        groups.setdefault(policy.run.seed_group(policy.checkpoint), {})[policy.run.seed] = policy
    return [[members[seed] for seed in sorted(members)] for members in groups.values()]


def _pairs(sides: list[list[_Policy]]) -> list[tuple[list[_Policy], list[_Policy]]]:
    """Return each two sides of one environment; found out before anything is evaluated."""
    pairs = [(first, second) for first, second in combinations(sides, 2) if first[0].env_name == second[0].env_name]
    if not pairs:
        found = ", ".join(f"{_name(side)} on {side[0].env_name}" for side in sides)
        raise UserError(f"--paired: expected two algorithms on one environment, got {found}")
    for first, second in pairs:
        if len(first) != len(second):
            raise UserError(
                f"--paired: expected as many training seeds of each algorithm, got {_name(first)} and {_name(second)}"
            )
    return pairs


def _name(side: list[_Policy]) -> str:
    first = side[0]
    return f"{first.run.algorithm} ({first.path} to {side[-1].path})" if len(side) > 1 else str(first.path)


@dataclass(frozen=True)
class _Pool:
    """An algorithm's training seeds together."""

    policies: list[_Policy]
    success_rate: float
    interval: Interval
    by_task: dict[int, float]

    @classmethod
    def of(cls, policies: list[_Policy], results: dict[Path, EvaluationResult]) -> "_Pool":
        members = [results[policy.path] for policy in policies]
        outcomes = stack_outcomes(members)
        rates = dict(zip(members[0].settings.tasks, outcomes.mean((0, 2)).tolist(), strict=True))
        return cls(policies, float(outcomes.mean()), success_interval(outcomes), rates)


@dataclass(frozen=True)
class _Comparison:
    """Two runs, or the training seeds of two algorithms, on the same starts."""

    first: list[_Policy]
    second: list[_Policy]
    result: PairedComparison

    @classmethod
    def of(cls, first: list[_Policy], second: list[_Policy], results: dict[Path, EvaluationResult]) -> "_Comparison":
        outcomes = stack_outcomes([results[policy.path] for policy in (*first, *second)])
        return cls(first, second, paired_comparison(outcomes[: len(first)], outcomes[len(first) :]))


def _as_json(
    policies: list[_Policy], results: dict[Path, EvaluationResult], pools: list[_Pool], comparisons: list[_Comparison]
) -> dict[str, Any]:
    def paths(side: list[_Policy]) -> list[str]:
        return [str(policy.path) for policy in side]

    return {
        "runs": [
            {
                "run": str(policy.path),
                "checkpoint": str(policy.checkpoint.path),
                **results[policy.path].to_dict(),
            }
            for policy in policies
        ],
        "training_seeds": [
            {
                "runs": paths(pool.policies),
                "success_rate": pool.success_rate,
                "interval": pool.interval._asdict(),
                "by_task": pool.by_task,
            }
            for pool in pools
        ],
        "paired": [
            {
                "first": paths(comparison.first),
                "second": paths(comparison.second),
                **dataclasses.asdict(comparison.result),
                "interval": comparison.result.interval._asdict(),
            }
            for comparison in comparisons
        ],
    }


def _as_text(
    policies: list[_Policy], results: dict[Path, EvaluationResult], pools: list[_Pool], comparisons: list[_Comparison]
) -> str:
    parts = [results[each.path].table(f"{each.path}, step {each.checkpoint.path.name}") for each in policies]
    for pool in pools:
        policy, (low, high) = pool.policies[0], pool.interval
        goals = results[policy.path].has_goals
        parts.append(
            f"{policy.run.algorithm} on {policy.env_name}, {len(pool.policies)} training seeds: "
            f"success {pool.success_rate:.1%}, 95% interval {low:.1%} to {high:.1%} "
            f"({'seeds and goals' if goals else 'seeds'} resampled)"
        )
        if goals:
            parts[-1] += "\n" + ", ".join(f"goal {task} {rate:.1%}" for task, rate in pool.by_task.items())
    for comparison in comparisons:
        result, (low, high) = comparison.result, comparison.result.interval
        several = len(comparison.first) > 1
        resampled = "seeds and goals" if several else "goals"
        parts.append(
            f"{_name(comparison.first)} minus {_name(comparison.second)}, on the same starts: "
            f"{result.difference:+.1%}, 95% interval {low:+.1%} to {high:+.1%} ({resampled} resampled)\n"
            f"only the first succeeds {result.first_only} times, only the second {result.second_only} times; "
            f"exact McNemar p = {result.p_value:.2g} (for these goals; episodes taken as independent)"
        )
        if not several:
            parts[-1] += "\nOne training run each: this compares two policies, not two algorithms."
    return "\n\n".join(parts)
