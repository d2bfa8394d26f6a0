"""The study's tables, as rows of text for HTML and Markdown alike."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from nfkern.bench.core.units import duration
from nfkern.bench.studies import tables as studies
from nfkern.bench.studies.quality.policies import POLICIES
from nfkern.bench.studies.quality.records import TRUTH, Results
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.bench.studies.quality.summary import OURS, Summary, ahead, points, summaries
from nfkern.bench.studies.summary import beyond_spread, front
from nfkern.bench.studies.tables import Table, counted, measured_on, percent, spread

FLOOR = "the density itself"


def of_density(policies: Mapping[str, Summary]) -> Table:
    """All numbers of one density."""
    head = ["policy", "sliced Wasserstein", "MMD", "KL, nats", "modes covered", "off modes"]
    head += ["act, 1", "act, 256", "training, CPU s", "held-out loss", "learning rate", "parameters"]
    return head, [_line(row) for row in policies.values()]


def across(results: Results, cell: Callable[[Summary], str], policies: Sequence[str] | None = None) -> Table:
    """One number of each policy (those named, or all and the density itself) for each density."""
    found = summaries(results)
    names = policies or [
        name for name in (*results.settings.policies, TRUTH) if any(name in row for row in found.values())
    ]
    rows = [[_named(name), *(cell(row[name]) if name in row else "" for row in found.values())] for name in names]
    return ["policy", *found], rows


def distances(results: Results) -> Table:
    """Sliced Wasserstein distances."""
    return across(results, lambda row: spread(row.sliced_wasserstein, 4))


def discrepancies(results: Results) -> Table:
    """Maximum mean discrepancies."""
    return across(results, lambda row: spread(row.mmd, 4))


def modes(results: Results) -> Table:
    """Modes covered, and samples off all modes."""
    return across(results, lambda row: f"{percent(row.covered)} / {percent(row.off_modes)}")


def divergences(results: Results) -> Table:
    """KL divergences of the policies that have a density."""
    return across(
        results, lambda row: spread(row.kl, 3), [name for name in results.settings.policies if POLICIES[name].density]
    )


def costs(results: Results) -> Table:
    """Time of `act` and CPU time of training, by the numbers of a decision: medians over the densities with as many."""
    found = summaries(results)
    sizes = sorted({DENSITIES[name].size for name in found})
    head = ["policy", "parameters"]
    rows = {name: [_named(name), ""] for name in results.settings.policies if name not in results.skipped}
    for size in sizes:
        head += [f"act, 1 x {size}", f"act, 256 x {size}", f"training, {size}"]
    for name, row in rows.items():
        every = [found[density][name] for density in found if name in found[density]]
        row[1] = _range([each.parameters for each in every if each.parameters])
        for size in sizes:
            some = [each for each in every if DENSITIES[each.density].size == size]
            row += [_median([each.latencies[batch] for each in some if each.latencies]) for batch in (1, 256)]
            row.append(_median([each.training_cpu_s.mean for each in some if each.training_cpu_s]))
    return head, list(rows.values())


def verdicts(results: Results) -> list[str]:
    """For each density, a sentence on who is ahead of nfkern's own policies, and one on the front."""
    sentences = []
    beyond = beyond_spread(len(results.settings.seeds))
    for density, policies in summaries(results).items():
        for ours in OURS:
            if ours in policies and policies[ours].sliced_wasserstein:
                others = ahead(policies, ours)
                names = ", ".join(others) if others else "no other policy"
                sentences.append(f"{density}: nearer to the density than {ours}, {beyond}: {names}.")
        best = ", ".join(front(points(policies.values())))
        sentences.append(f"{density}: no policy is both faster and nearer than these: {best}.")
    return sentences


def described(results: Results) -> str:
    """Where and how it was measured, in one paragraph."""
    settings = results.settings
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    where = measured_on(results.environment, results.threads, results.started, ("torch", "zuko"))
    return (
        f"{where}. {settings.steps} steps of {settings.batch_size} pairs, {counted(len(settings.seeds), 'seed')}, "
        f"about {settings.parameters:,} parameters. Learning rates from {rates} by the held-out loss after "
        f"{settings.trial_steps} steps on a seed of its own. Scores at {settings.contexts} contexts with "
        f"{settings.samples} samples each, log-likelihoods on {settings.pairs:,} pairs."
    )


def to_markdown(results: Results) -> str:
    """The tables of docs/quality.md."""
    tables = (
        ("Sliced Wasserstein distance, in units of actions, which span [-1, 1]:", distances(results)),
        ("Maximum mean discrepancy:", discrepancies(results)),
        ("Modes that got at least half of their due / samples on no mode:", modes(results)),
        ("KL divergence in nats, where the policy has a density:", divergences(results)),
        (
            "Time of `act` for 1 and 256 observations, and CPU time of training, by the numbers of a decision:",
            costs(results),
        ),
    )
    return studies.to_markdown(f"Measured on {described(results)}", tables, verdicts(results))


def _named(policy: str) -> str:
    return FLOOR if policy == TRUTH else policy


def _line(row: Summary) -> list[str]:
    if row.seeds == 0:
        return [_named(row.policy), f"failed: {row.error}", *[""] * 10]
    cells = [_named(row.policy), spread(row.sliced_wasserstein, 4), spread(row.mmd, 4), spread(row.kl, 3)]
    cells += [percent(row.covered), percent(row.off_modes)]
    cells += [duration(row.latencies[batch]) if row.latencies else "" for batch in (1, 256)]
    if row.policy == TRUTH:
        return [*cells, "", "", "", ""]
    extra = f" ({row.trained_parameters:,} trained)" if row.trained_parameters != row.parameters else ""
    rate = "" if row.learning_rate is None else f"{row.learning_rate:g}"
    return [*cells, spread(row.training_cpu_s, 1), spread(row.loss, 3), rate, f"{row.parameters:,}{extra}"]


def _median(seconds: Sequence[float]) -> str:
    return duration(statistics.median(seconds)) if seconds else ""


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
