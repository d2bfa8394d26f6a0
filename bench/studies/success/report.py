"""The study's report: success, its cost in training and acting, and the time to a given success."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any, ClassVar

import numpy as np

from nfkern.algorithms.evaluation.statistics import success_interval
from nfkern.bench.core.units import duration
from nfkern.bench.studies.records import find
from nfkern.bench.studies.report import QUICK as QUICK_WORDS
from nfkern.bench.studies.report import Report, measured_on
from nfkern.bench.studies.success.policies import POLICIES
from nfkern.bench.studies.success.records import Evaluation, Results, Settings
from nfkern.bench.studies.summary import Cost, Measure, Row, Rows, Table, column, counted, percent, seconds, table

TRANSITIONS = {"pointmaze-medium-navigate-v0": 100_000, "cube-single-play-v0": 300_000}
"""Transitions that are enough for the default environments, far fewer than were published."""

DEFAULT = Settings(tuple(TRANSITIONS), tuple(POLICIES))
QUICK = replace(
    DEFAULT,
    envs=("pointmaze-medium-navigate-v0",),
    policies=tuple(name for name, policy in POLICIES.items() if policy.training != "diffusion"),
    seeds=(0,),
    steps=100,
    eval_interval=50,
    eval_episodes=1,
    final_episodes=1,
)


def target(results: Results, env: str) -> float | None:
    """Return the success to which times are told: as set, or half of the best policy's; None where none succeeded."""
    if results.settings.target is not None:
        return results.settings.target
    finals = [_finals(results, env, policy) for policy in results.settings.policies]
    best = max((statistics.fmean(row.success for row in each) for each in finals if each), default=0.0)
    return best / 2 if best else None


def step_of(evaluations: list[Evaluation], wanted: float) -> int | None:
    """Return the gradient step of the first evaluation with at least the wanted success; None if there is none."""
    # A share that is met exactly must not be missed by rounding.
    return min((row.step for row in evaluations if not row.error and row.success >= wanted - 1e-9), default=None)


def _row(results: Results, env: str, policy: str) -> Row:
    trainings = find(results.trainings, env=env, training=POLICIES[policy].training)
    evaluations = find(results.evaluations, env=env, policy=policy)
    speeds = {row.seed: row.steps_per_second for row in trainings if not row.error}
    finals, wanted = _finals(results, env, policy), target(results, env)
    curve: dict[int, list[float]] = {}
    for evaluation in sorted(find(evaluations, error=None), key=lambda row: row.step):
        curve.setdefault(evaluation.step, []).append(evaluation.success)
    values: dict[str, list[float]] = {
        "success": [row.success for row in finals],
        "steps_per_second": list(speeds.values()),
        "training": [results.settings.steps / speed for speed in speeds.values()],
        "parameters": [row.parameters for row in trainings if not row.error],
        **{f"after {step}": shares for step, shares in curve.items()},
        **results.times(env, policy=policy),
    }
    if finals:
        values["tasks"] = list(np.mean([np.array(row.successes) / row.episodes for row in finals], 0))
        interval = success_interval(np.stack([_outcomes(row) for row in finals]))
        values |= {"low": [interval.low], "high": [interval.high]}
    values = {name: some for name, some in values.items() if some}
    if finals and wanted is not None:
        reached = {row.seed: step_of(find(evaluations, seed=row.seed), wanted) for row in finals}
        values["time"] = [step / speeds[seed] for seed, step in reached.items() if step]
    speed = statistics.fmean(speeds.values()) if speeds else None
    points = tuple((step / speed, statistics.fmean(shares)) for step, shares in curve.items()) if speed else ()
    errors = [row.error for row in trainings] + [row.error for row in evaluations]
    return Row(values, points, next(filter(None, errors), None))


def _finals(results: Results, env: str, policy: str) -> list[Evaluation]:
    """Return the last evaluation of each seed."""
    return find(results.evaluations, env=env, policy=policy, step=results.settings.steps, error=None)


def _outcomes(row: Evaluation) -> np.ndarray:
    """Successes (tasks, episodes) as 0 and 1, the successful ones first: their order plays no part in an interval."""
    return (np.arange(row.episodes) < np.array(row.successes)[:, None]).astype(np.float64)


def of_environment(results: Results, env: str, rows: Mapping[str, Row]) -> Table:
    """All numbers of one environment."""
    tasks = max((len(row.values.get("tasks", ())) for row in rows.values()), default=0)
    columns = (
        column("success", "success", percent),
        ("95 %", _interval),
        (f"goals 1 to {tasks}", lambda row: ", ".join(f"{100 * rate:.0f}" for rate in row.values.get("tasks", ()))),
        (f"training to {_share(target(results, env))}", _time),
        column("steps a second", "steps_per_second", lambda speed: f"{speed.mean:.0f}"),
        column("all steps", "training", seconds),
        column("act, 1", "act 1", seconds),
        column("act, 50", "act 50", seconds),
        ("parameters", lambda row: f"{max(row.values['parameters']):,}" if "parameters" in row.values else ""),
    )
    return table(rows, columns)


def curves(rows: Mapping[str, Row]) -> Table:
    """Mean success by gradient steps; empty where a policy has not been evaluated."""
    every = {int(name.split()[1]) for row in rows.values() for name in row.values if name.startswith("after ")}
    steps = sorted(every)
    lines = [
        [name, *(row.cell(f"after {step}", percent) for step in steps)]
        for name, row in rows.items()
        if any(f"after {step}" in row.values for step in steps)
    ]
    return ["policy", *(f"{step:,} steps" for step in steps)], lines


def _interval(row: Row) -> str:
    if "low" not in row.values:
        return ""
    return f"{100 * row.values['low'][0]:.0f} to {100 * row.values['high'][0]:.0f} %"


def _time(row: Row) -> str:
    """Mean time to the target, and by how many seeds it was reached where it was not by all."""
    if "time" not in row.values:
        return ""
    reached, seeds = len(row.values["time"]), len(row.values["success"])
    some = "" if reached == seeds else f", {reached} of {seeds} seeds"
    return row.cell("time", seconds) + some if reached else "not reached"


def _share(rate: float | None) -> str:
    return "any success" if rate is None else f"{100 * rate:.0f} %"


class SuccessReport(Report[Results]):
    """Declaration of the report."""

    name = "success"
    title = "Success beside cost"
    introduction = (
        "Every policy learns from the same data with the same goals, batch size, learning rate and schedule, in as "
        "many gradient steps, by the loop of nfkern train. Success is the mean over the environment's tasks; its "
        "interval resamples tasks and training seeds. Seconds of training are gradient steps at the median speed "
        "of the training's log, with batches, logging and checkpoints and without evaluations. The time to a "
        "success is that of the first evaluation which has it, and there are only as many as the second table "
        "shows. An action is one call of act."
    )
    caption = (
        "Each environment has two charts: success after all steps (higher is better) against the median time of one "
        "action, and mean success over seeds against the time of training without evaluations. Bars are a standard "
        "deviation over seeds to either side, and the line joins the policies to which none is preferable in both. The "
        "dashed line is the success to which the tables tell the time. A single mark in the second chart is a policy "
        "evaluated at the end only. nfkern's own policy alone is green."
    )
    kind = Results
    policies = POLICIES
    ours = ("nf",)
    presets: ClassVar[dict[tuple[str, ...], Any]] = {(): DEFAULT, QUICK_WORDS: QUICK}
    options = ("envs", "policies", "steps", "seeds", "parameters", "target", "threads")
    measure = Measure("success", "success", -1)
    better = "more success than"
    costs = (Cost("act 1", "time of one action"), Cost("training", "training", curves=True))

    def rows(self, results: Results) -> Rows:
        """Return the numbers.

        `tasks` is success by task, `low` and `high` bound the interval of success, `after N` is success after N steps,
        and `time` has the seconds of training to the target for the seeds that reached it.
        """
        found: Rows = {}
        for env, policy in product(results.settings.envs, results.settings.policies):
            row = _row(results, env, policy)
            if row.values or row.error:
                found.setdefault(env, {})[policy] = row
        return found

    def line(self, results: Results, condition: str, rows: Mapping[str, Row]) -> float | None:
        """Return the target."""
        return target(results, condition)

    def described(self, results: Results) -> str:
        """Return machine, data, recipe and evaluations."""
        settings = results.settings
        where = measured_on(results, settings.threads, ("torch", "ogbench", "mujoco", "diffusers"))
        data = ", ".join(f"{name} with {each.transitions:,} transitions" for name, each in results.datasets.items())
        size = (
            "of each algorithm's own size" if settings.parameters is None else f"of {settings.parameters:,} parameters"
        )
        return (
            f"{where}. Data: {data}. {settings.steps:,} steps of batch {settings.batch_size}, learning rate "
            f"{settings.learning_rate:g} after {settings.warmup_steps:,} steps of warm-up, with cosine decay; goals by "
            f"gamma {settings.gamma:g}; networks {size}; {counted(len(settings.seeds), 'seed')}. Evaluations every "
            f"{settings.eval_interval:,} steps with {counted(settings.eval_episodes, 'episode')} of each task, the "
            f"last with {settings.final_episodes}."
        )

    def remarks(self, results: Results, condition: str, rows: Mapping[str, Row]) -> list[str]:
        """Return who is soonest at the target, and the front."""
        wanted = target(results, condition)
        if wanted is None:
            return ["no policy has any success."] if any("success" in row.values for row in rows.values()) else []
        reached = {name: row.values.get("time", ()) for name, row in rows.items()}
        by_all = {
            name: statistics.fmean(times)
            for name, times in reached.items()
            if times and len(times) == len(rows[name].values["success"])
        }
        names = ", ".join(f"{name} ({duration(by_all[name])})" for name in sorted(by_all, key=by_all.__getitem__))
        by = f", soonest first, by {names}." if by_all else " by no policy."
        return [
            f"{_share(wanted)} success is reached with every seed{by}",
            f"no policy both acts faster and succeeds more often than these: {self.best(rows)}.",
        ]

    def sections(self, results: Results, rows: Rows) -> list[tuple[str, str, list[Table]]]:
        """Return the tables of each environment."""
        return [(env, "", [of_environment(results, env, some), curves(some)]) for env, some in rows.items()]

    def tables(self, results: Results, rows: Rows) -> list[tuple[str, Table]]:
        """Return the same for docs/records/success.md."""
        titles = "after all steps", "mean success on the way"
        return [
            (f"{env}, {title}:", made)
            for env, _, tables in self.sections(results, rows)
            for title, made in zip(titles, tables, strict=True)
        ]


REPORT = SuccessReport()
