"""Results in short: success with its interval, time to a given success, speeds, and who is ahead of the flow."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nfkern.algorithms.evaluation.statistics import Interval, success_interval
from nfkern.bench.studies.success.policies import OURS, POLICIES
from nfkern.bench.studies.success.records import Evaluation, Results
from nfkern.bench.studies.summary import Spread


@dataclass(frozen=True)
class Summary:
    """A policy in an environment.

    Attributes:
        policy: its name.
        seeds: how many trainings have been evaluated to the end.
        success: after all steps, 0 to 1, over seeds.
        interval: of it, resampling seeds and tasks.
        by_task: success at each task, over seeds.
        curve: mean success over seeds by gradient step.
        times: for each seed, seconds of training to the target; None where it was not reached.
        steps_per_second: of training, mean over seeds.
        training_s: seconds of all steps at that speed.
        latencies: median seconds of `act` by number of observations.
        parameters: in the networks that act.
        error: why something is missing.
    """

    policy: str
    seeds: int = 0
    success: Spread | None = None
    interval: Interval | None = None
    by_task: tuple[float, ...] = ()
    curve: Mapping[int, float] = field(default_factory=dict)
    times: tuple[float | None, ...] = ()
    steps_per_second: float | None = None
    training_s: float | None = None
    latencies: Mapping[int, float] = field(default_factory=dict)
    parameters: int = 0
    error: str | None = None


def summaries(results: Results) -> dict[str, dict[str, Summary]]:
    """By environment, then by policy; only what has been measured."""
    found: dict[str, dict[str, Summary]] = {}
    for env in results.settings.envs:
        for policy in results.settings.policies:
            row = _summary(results, env, policy)
            if row.latencies or row.seeds or row.error:
                found.setdefault(env, {})[policy] = row
    return found


def target(results: Results, env: str) -> float | None:
    """The success to which times are told: as set, or half of the best policy's mean; None where none succeeded."""
    if results.settings.target is not None:
        return results.settings.target
    rates = [final.mean for name in results.settings.policies if (final := _final(results, env, name))]
    best = max(rates, default=0.0)
    return best / 2 if best else None


def time_to(evaluations: Iterable[Evaluation], steps_per_second: float, wanted: float) -> float | None:
    """Seconds of training up to the first evaluation with at least the wanted success; None if there is none."""
    # A share that is met exactly must not be missed by rounding.
    reached = [row.step for row in evaluations if row.error is None and row.success >= wanted - 1e-9]
    return min(reached) / steps_per_second if reached else None


def points(rows: Iterable[Summary], batch: int) -> dict[str, tuple[float, float]]:
    """Median time of `act` for `batch` observations, and the share of failures, where there are both."""
    return {
        row.policy: (row.latencies[batch], 1 - row.success.mean)
        for row in rows
        if row.success and batch in row.latencies
    }


def ahead(rows: Mapping[str, Summary], ours: str) -> list[str]:
    """Policies with a higher success than `ours`, by more than the seeds' spreads; the highest first."""
    own = rows[ours].success
    others = [
        (theirs.mean, name)
        for name, row in rows.items()
        if name not in OURS and (theirs := row.success) and own and theirs.above(own)
    ]
    return [name for _, name in sorted(others, reverse=True)]


def _summary(results: Results, env: str, policy: str) -> Summary:
    settings, training = results.settings, POLICIES[policy].training
    trained = {
        row.seed: row for row in results.trainings if (row.env, row.training) == (env, training) and not row.error
    }
    failed = [row.error for row in results.trainings if (row.env, row.training) == (env, training) and row.error]
    rows = [row for row in results.evaluations if (row.env, row.policy) == (env, policy)]
    good = [row for row in rows if row.error is None]
    finals = _finals(results, env, policy)
    wanted = target(results, env)
    times = [
        time_to((row for row in good if row.seed == final.seed), trained[final.seed].steps_per_second, wanted)
        for final in finals
        if wanted is not None
    ]
    speeds = [row.steps_per_second for row in trained.values()]
    curve: dict[int, list[float]] = {}
    for row in sorted(good, key=lambda row: row.step):
        curve.setdefault(row.step, []).append(row.success)
    latencies = {
        row.batch: row.quantiles.median_s for row in results.latencies if (row.env, row.policy) == (env, policy)
    }
    return Summary(
        policy,
        len(finals),
        success=_final(results, env, policy),
        interval=success_interval(np.stack([_outcomes(row) for row in finals])) if finals else None,
        by_task=_by_task(finals),
        curve={step: statistics.fmean(values) for step, values in curve.items()},
        times=tuple(times),
        steps_per_second=statistics.fmean(speeds) if speeds else None,
        training_s=statistics.fmean(settings.steps / each for each in speeds) if speeds else None,
        latencies=latencies,
        parameters=max((row.parameters for row in trained.values()), default=0),
        error=next(iter(failed + [row.error for row in rows if row.error]), None),
    )


def _finals(results: Results, env: str, policy: str) -> list[Evaluation]:
    """The last evaluation of each seed."""
    wanted = (env, policy, results.settings.steps)
    return [row for row in results.evaluations if (row.env, row.policy, row.step) == wanted and row.error is None]


def _final(results: Results, env: str, policy: str) -> Spread | None:
    finals = _finals(results, env, policy)
    return Spread.of([row.success for row in finals]) if finals else None


def _outcomes(row: Evaluation) -> np.ndarray:
    """Successes (tasks, episodes) as 0 and 1, the successful ones first: their order plays no part in an interval."""
    return (np.arange(row.episodes) < np.array(row.successes)[:, None]).astype(np.float64)


def _by_task(finals: Sequence[Evaluation]) -> tuple[float, ...]:
    if not finals:
        return ()
    rates = np.array([row.successes for row in finals]) / finals[0].episodes
    return tuple(rates.mean(0).tolist())
