"""The study's report: what policies reach on each density, and what it costs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nfkern.bench.core.units import duration
from nfkern.bench.studies.quality.policies import POLICIES
from nfkern.bench.studies.quality.records import TRUTH, Results, Settings
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.bench.studies.report import QUICK as QUICK_WORDS
from nfkern.bench.studies.report import Report, measured_on
from nfkern.bench.studies.summary import (
    Cost,
    Measure,
    Row,
    Rows,
    Table,
    across,
    column,
    counted,
    number,
    percent,
    seconds,
    table,
)

DEFAULT = Settings(tuple(DENSITIES), tuple(POLICIES))
QUICK = replace(
    DEFAULT, seeds=(0,), steps=100, trial_steps=100, learning_rates=(3e-3, 1e-2), contexts=4, samples=500, pairs=2000
)
NAMES = {TRUTH: "the density itself"}
_SCORES = ("sliced_wasserstein", "mmd", "covered", "off_modes")
_TRAINING = ("training_cpu_s", "loss", "learning_rate", "parameters", "trained_parameters")


def rows(results: Results) -> Rows:
    """Numbers by density and policy, those of the density itself under `TRUTH` last; only what has been measured.

    `kl` is the divergence of the policy from the density, nats: its NLL less that of the density on the same pairs.
    """
    found: Rows = {}
    for density in results.settings.densities:
        for policy in (*results.settings.policies, TRUTH):
            row = _row(results, density, policy)
            if row.values or row.error:
                found.setdefault(density, {})[policy] = row
    return found


def _row(results: Results, density: str, policy: str) -> Row:
    truth = _nlls(results, density, TRUTH)
    fits = [fit for fit in results.fits if (fit.density, fit.policy) == (density, policy)]
    scored = [fit for fit in fits if fit.scores]
    values = {name: [getattr(fit.scores, name) for fit in scored] for name in _SCORES}
    values["kl"] = [nll - truth[0] for nll in _nlls(results, density, policy) if truth]
    if policy != TRUTH:
        values |= {name: [getattr(fit, name) for fit in scored] for name in _TRAINING}
    for row in results.latencies:
        if (row.density, row.policy) == (density, policy):
            values[f"act {row.batch}"] = [row.quantiles.median_s]
    known = {name: [each for each in some if each is not None] for name, some in values.items()}
    error = next((fit.error for fit in fits if fit.error), None)
    return Row({name: some for name, some in known.items() if some}, error=error)


def _nlls(results: Results, density: str, policy: str) -> list[float]:
    scores = [fit.scores for fit in results.fits if (fit.density, fit.policy) == (density, policy) and fit.scores]
    return [score.nll for score in scores if score.nll is not None]


def of_density(rows: Mapping[str, Row]) -> Table:
    """All numbers of one density."""
    columns = (
        column("sliced Wasserstein", "sliced_wasserstein", number(4)),
        column("MMD", "mmd", number(4)),
        column("KL, nats", "kl", number(3)),
        column("modes covered", "covered", percent),
        column("off modes", "off_modes", percent),
        column("act, 1", "act 1", seconds),
        column("act, 256", "act 256", seconds),
        column("training, CPU s", "training_cpu_s", number(1)),
        column("held-out loss", "loss", number(3)),
        column("learning rate", "learning_rate", lambda rate: f"{rate.mean:g}"),
        ("parameters", _parameters),
    )
    return table(rows, columns, NAMES)


def _parameters(row: Row) -> str:
    acting, trained = (row.cell(name, lambda count: f"{count.mean:,.0f}") for name in _TRAINING[-2:])
    return acting if acting == trained else f"{acting} ({trained} trained)"


def costs(results: Results, rows: Rows) -> Table:
    """Time of `act` and CPU time of training, by the numbers of a decision: medians over the densities with as many."""
    sizes = sorted({DENSITIES[name].size for name in rows})
    head = ["policy", "parameters"]
    for size in sizes:
        head += [f"act, 1 x {size}", f"act, 256 x {size}", f"training, {size}"]
    lines = []
    for name in (name for name in results.settings.policies if name not in results.skipped):
        of_policy = {density: row[name] for density, row in rows.items() if name in row}
        line = [name, _range([count for row in of_policy.values() for count in row.values.get("parameters", ())])]
        for size in sizes:
            some = [row for density, row in of_policy.items() if DENSITIES[density].size == size]
            line += [
                median([found.mean for row in some if (found := row.spread(quantity))])
                for quantity in ("act 1", "act 256", "training_cpu_s")
            ]
        lines.append(line)
    return head, lines


def median(times: Sequence[float]) -> str:
    """Return the median as text; nothing of nothing."""
    return duration(statistics.median(times)) if times else ""


def _range(counts: Sequence[float]) -> str:
    return " to ".join(f"{count:,.0f}" for count in sorted({min(counts), max(counts)})) if counts else ""


def document(results: Results, rows: Rows) -> list[tuple[str, Table]]:
    """The tables of docs/records/quality.md."""
    told = [name for name in results.settings.policies if POLICIES[name].density]
    every = [name for name in (*results.settings.policies, TRUTH) if any(name in some for some in rows.values())]

    def modes(row: Row) -> str:
        return f"{row.cell('covered', percent)} / {row.cell('off_modes', percent)}"

    def distances(name: str, digits: int, names: Sequence[str] = every) -> Table:
        return across(rows, names, lambda row: row.cell(name, number(digits)), NAMES)

    return [
        ("Sliced Wasserstein distance, in units of actions, which span [-1, 1]:", distances("sliced_wasserstein", 4)),
        ("Maximum mean discrepancy:", distances("mmd", 4)),
        ("Modes that got at least half of their due / samples on no mode:", across(rows, every, modes, NAMES)),
        ("KL divergence in nats, where the policy has a density:", distances("kl", 3, told)),
        (
            "Time of `act` for 1 and 256 observations, and CPU time of training, by the numbers of a decision:",
            costs(results, rows),
        ),
    ]


def _sections(results: Results, rows: Rows) -> list[tuple[str, str, list[Table]]]:
    title = "Time of act for 1 and 256 observations, and CPU time of training"
    each = [(name, DENSITIES[name].summary, [of_density(some)]) for name, some in rows.items()]
    return [(title, "", [costs(results, rows)]), *each]


def _described(results: Results) -> str:
    settings = results.settings
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    return (
        f"{measured_on(results, results.threads, ('torch', 'zuko'))}. {settings.steps} steps of {settings.batch_size} "
        f"pairs, {counted(len(settings.seeds), 'seed')}, about {settings.parameters:,} parameters. Learning rates from "
        f"{rates} by the held-out loss after {settings.trial_steps} steps on a seed of its own. Scores at "
        f"{settings.contexts} contexts with {settings.samples} samples each, log-likelihoods on {settings.pairs:,} "
        "pairs."
    )


def _remarks(results: Results, density: str, rows: Mapping[str, Row]) -> list[str]:
    return [f"no policy is both faster and nearer than these: {REPORT.best(rows)}."]


def _floor(results: Results, density: str) -> float | None:
    found = _row(results, density, TRUTH).spread("sliced_wasserstein")
    return found.mean if found else None


REPORT = Report[Results](
    command="nfkern bench quality",
    title="Quality beside speed",
    introduction=(
        "Every policy learns the same conditional densities from the same batches, in as many steps, with the same "
        "optimiser (AdamW), schedule (warm-up, cosine) and average of the weights. Depths and proportions are each "
        "algorithm's own, and widths give the networks that act as many parameters. The learning rate is each policy's "
        "best of one grid by its own held-out loss. Three densities are Gaussians or mixtures of them, gaussians_25 "
        "exactly as a mixture density network has them: it is at home there."
    ),
    kind=Results,
    policies=POLICIES,
    ours=("nf", "nf_denoised"),
    presets={(): DEFAULT, QUICK_WORDS: QUICK},
    options=("densities", "policies", "steps", "seeds", "parameters"),
    measure=Measure("sliced_wasserstein", "sliced Wasserstein", 1),
    better="nearer to the density than",
    costs=(Cost("act 1", "time of one action"), Cost("training_cpu_s", "CPU time of a training")),
    caption=(
        "Each density has two charts: the sliced Wasserstein distance from it (lower is better) against the median "
        "time of one action, and against the CPU time of a training, which two policies may share. Bars are a "
        "standard deviation over seeds to either side. The line joins the policies to which none is preferable in "
        "both. Nothing can be expected below the dashed line, the distance of an equally large sample of the density "
        "itself. nfkern's own policies alone are green."
    ),
    rows=rows,
    line=_floor,
    described=_described,
    remarks=_remarks,
    sections=_sections,
    tables=document,
)
