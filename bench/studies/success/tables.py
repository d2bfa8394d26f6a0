"""The study's tables, as rows of text for HTML and Markdown alike."""

import statistics
from collections.abc import Mapping

from nfkern.bench.core.units import duration
from nfkern.bench.studies import tables as studies
from nfkern.bench.studies.success.policies import OURS
from nfkern.bench.studies.success.records import Results
from nfkern.bench.studies.success.summary import Summary, ahead, points, summaries, target
from nfkern.bench.studies.summary import beyond_spread, front
from nfkern.bench.studies.tables import Table, counted, measured_on, percent


def of_environment(results: Results, env: str) -> Table:
    """All numbers of one environment."""
    policies, wanted = summaries(results)[env], target(results, env)
    tasks = max((len(row.by_task) for row in policies.values()), default=0)
    head = ["policy", "success", "95 %", f"goals 1 to {tasks}", f"training to {_share(wanted)}"]
    head += ["steps a second", "all steps", "act, 1", "act, 50", "parameters"]
    return head, [_line(row) for row in policies.values()]


def curves(results: Results, env: str) -> Table:
    """Mean success by gradient steps; empty where a policy has not been evaluated."""
    policies = summaries(results)[env]
    steps = sorted({step for row in policies.values() for step in row.curve})
    rows = [
        [name, *(_share(row.curve[step]) if step in row.curve else "" for step in steps)]
        for name, row in policies.items()
        if row.curve
    ]
    return ["policy", *(f"{step:,} steps" for step in steps)], rows


def verdicts(results: Results) -> list[str]:
    """For each environment, who is ahead of nfkern's own policy, who is soonest, and two fronts."""
    beyond = beyond_spread(len(results.settings.seeds))
    sentences = []
    for env, policies in summaries(results).items():
        for ours in OURS:
            if ours in policies and policies[ours].success:
                names = ", ".join(ahead(policies, ours)) or "no other policy"
                sentences.append(f"{env}: more success than {ours}, {beyond}: {names}.")
        wanted = target(results, env)
        if wanted is None and any(row.success for row in policies.values()):
            sentences.append(f"{env}: no policy has any success.")
        elif wanted is not None:
            sentences.append(_soonest(policies, f"{env}: {_share(wanted)}"))
            best = ", ".join(front(points(policies.values(), 1)))
            sentences.append(f"{env}: no policy both acts faster and succeeds more often than these: {best}.")
    return sentences


def described(results: Results) -> str:
    """Where and how it was measured, in one paragraph."""
    settings = results.settings
    where = measured_on(
        results.environment, settings.threads, results.started, ("torch", "ogbench", "mujoco", "diffusers")
    )
    data = ", ".join(f"{name} with {each.transitions:,} transitions" for name, each in results.datasets.items())
    size = "of each algorithm's own size" if settings.parameters is None else f"of {settings.parameters:,} parameters"
    return (
        f"{where}. Data: {data}. {settings.steps:,} steps of batch {settings.batch_size}, learning rate "
        f"{settings.learning_rate:g} after {settings.warmup_steps:,} steps of warm-up, with cosine decay; goals by "
        f"gamma {settings.gamma:g}; networks {size}; {counted(len(settings.seeds), 'seed')}. Evaluations every "
        f"{settings.eval_interval:,} steps with {counted(settings.eval_episodes, 'episode')} of each task, the last "
        f"with {settings.final_episodes}."
    )


def to_markdown(results: Results) -> str:
    """The tables of docs/success.md."""
    tables = []
    for env in summaries(results):
        tables += [(f"{env}, after all steps:", of_environment(results, env))]
        tables += [(f"{env}, mean success on the way:", curves(results, env))]
    return studies.to_markdown(f"Measured on {described(results)}", tables, verdicts(results))


def _line(row: Summary) -> list[str]:
    if row.seeds == 0:
        reason = f"failed: {row.error}" if row.error else "not evaluated yet"
        cells = [row.policy, reason, "", "", ""]
    else:
        assert row.interval is not None
        interval = f"{100 * row.interval.low:.0f} to {100 * row.interval.high:.0f} %"
        tasks = ", ".join(f"{100 * rate:.0f}" for rate in row.by_task)
        cells = [row.policy, percent(row.success), interval, tasks, _time(row)]
    cells.append("" if row.steps_per_second is None else f"{row.steps_per_second:.0f}")
    cells.append("" if row.training_s is None else duration(row.training_s))
    cells += [duration(row.latencies[batch]) if batch in row.latencies else "" for batch in (1, 50)]
    return [*cells, f"{row.parameters:,}" if row.parameters else ""]


def _time(row: Summary) -> str:
    """Mean time to the target, and by how many seeds it was reached where it was not by all."""
    reached = [time for time in row.times if time is not None]
    if not reached:
        return "not reached" if row.times else ""
    mean = duration(statistics.fmean(reached))
    return mean if len(reached) == len(row.times) else f"{mean}, {len(reached)} of {len(row.times)} seeds"


def _soonest(policies: Mapping[str, Summary], what: str) -> str:
    by_all = {
        name: statistics.fmean(time for time in row.times if time is not None)
        for name, row in policies.items()
        if row.times and None not in row.times
    }
    if not by_all:
        return f"{what} success is reached with every seed by no policy."
    names = ", ".join(
        f"{name} ({duration(seconds)})" for name, seconds in sorted(by_all.items(), key=lambda item: item[1])
    )
    return f"{what} success is reached with every seed, soonest first, by {names}."


def _share(rate: float | None) -> str:
    return "any success" if rate is None else f"{100 * rate:.0f} %"
