"""The study's tables, as rows of text for HTML and Markdown alike."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nfkern.bench.quality.policies import POLICIES
from nfkern.bench.quality.records import TRUTH, Results
from nfkern.bench.quality.shapes import DENSITIES
from nfkern.bench.quality.summary import OURS, Spread, Summary, ahead, front, points, summaries
from nfkern.bench.report import duration
from nfkern.errors import UserError

Table = tuple[list[str], list[list[str]]]
"""Head and rows."""

BEGIN, END = "<!-- from the records: begin -->", "<!-- from the records: end -->"

FLOOR = "the density itself"


def of_density(policies: Mapping[str, Summary]) -> Table:
    """All numbers of one density."""
    head = ["policy", "sliced Wasserstein", "MMD", "KL, nats", "modes covered", "off modes"]
    head += ["act, 1", "act, 256", "training, CPU s", "learning rate", "parameters"]
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
    # One seed has no spread, and a reader must not take a difference for more than that.
    beyond = "beyond the seeds' spread" if len(results.settings.seeds) > 1 else "by one seed, whose spread is not known"
    for density, policies in summaries(results).items():
        for ours in OURS:
            if ours in policies and policies[ours].sliced_wasserstein:
                others = ahead(policies, ours)
                names = ", ".join(others) if others else "no other policy"
                sentences.append(f"{density}: nearer to the density than {ours}, {beyond}: {names}.")
        best = ", ".join(front(points(policies.values(), 1)))
        sentences.append(f"{density}: no policy is both faster and nearer than these: {best}.")
    return sentences


def described(results: Results) -> str:
    """Where and how it was measured, in one paragraph."""
    settings, environment = results.settings, results.environment
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    versions = ", ".join(
        f"{name} {environment.versions[name]}" for name in ("torch", "zuko") if name in environment.versions
    )
    threads = "1 thread" if results.threads == 1 else f"{results.threads} threads"
    seeds = "1 seed" if len(settings.seeds) == 1 else f"{len(settings.seeds)} seeds"
    return (
        f"{environment.device_name}, {threads}, {versions}, commit {(environment.commit or 'unknown')[:12]}, "
        f"{results.started[:10]}. {settings.steps} steps of {settings.batch_size} pairs, {seeds}, "
        f"about {settings.parameters:,} parameters. Learning rates from {rates} by the held-out loss after "
        f"{settings.trial_steps} steps on a seed of its own. Scores at {settings.contexts} contexts with "
        f"{settings.samples} samples each, log-likelihoods on {settings.pairs:,} pairs."
    )


def to_markdown(results: Results) -> str:
    """The tables of docs/quality.md."""
    parts = [f"Measured on {described(results)}"]
    for title, (head, rows) in (
        ("Sliced Wasserstein distance, in units of actions, which span [-1, 1]:", distances(results)),
        ("Modes that got at least half of their due / samples on no mode:", modes(results)),
        ("KL divergence in nats, where the policy has a density:", divergences(results)),
        (
            "Time of `act` for 1 and 256 observations, and CPU time of training, by the numbers of a decision:",
            costs(results),
        ),
    ):
        lines = [head, ["---"] * len(head), *rows]
        parts += [title, "\n".join("| " + " | ".join(line) + " |" for line in lines)]
    parts += ["\n".join(f"- {sentence}" for sentence in verdicts(results))]
    return "\n\n".join(parts)


def split_markdown(path: Path) -> tuple[str, str, str]:
    """What a Markdown file has before, between and after the marks.

    Raises:
        UserError: the file cannot be read, or the marks are not there, in order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    before, begin, rest = text.partition(BEGIN)
    between, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path}: expected a line {BEGIN} and after it a line {END}, to put the tables between")
    return before, between, after


def update_markdown(path: Path, results: Results) -> None:
    """Put the tables between the marks; raises as `split_markdown`."""
    before, _, after = split_markdown(path)
    path.write_text(f"{before}{BEGIN}\n\n{to_markdown(results)}\n\n{END}{after}", encoding="utf-8")


def spread(value: Spread | None, digits: int) -> str:
    """Mean and deviation, or nothing."""
    if value is None:
        return ""
    mean = f"{value.mean:.{digits}f}"
    return mean if value.deviation is None else f"{mean} ± {value.deviation:.{digits}f}"


def percent(value: Spread | None) -> str:
    """The mean in percent."""
    return "" if value is None else f"{100 * value.mean:.0f} %"


def _named(policy: str) -> str:
    return FLOOR if policy == TRUTH else policy


def _line(row: Summary) -> list[str]:
    if row.seeds == 0:
        return [_named(row.policy), f"failed: {row.error}", *[""] * 9]
    cells = [_named(row.policy), spread(row.sliced_wasserstein, 4), spread(row.mmd, 4), spread(row.kl, 3)]
    cells += [percent(row.covered), percent(row.off_modes)]
    cells += [duration(row.latencies[batch]) if row.latencies else "" for batch in (1, 256)]
    if row.policy == TRUTH:
        return [*cells, "", "", ""]
    extra = f" ({row.trained_parameters:,} trained)" if row.trained_parameters != row.parameters else ""
    rate = "" if row.learning_rate is None else f"{row.learning_rate:g}"
    return [*cells, spread(row.training_cpu_s, 1), rate, f"{row.parameters:,}{extra}"]


def _median(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return duration(ordered[len(ordered) // 2]) if ordered else ""


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
