"""The study's report: what policies reach on each density, and what it costs."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from itertools import product
from typing import Any, ClassVar

from nfkern.bench.core.units import duration
from nfkern.bench.studies.quality.policies import POLICIES
from nfkern.bench.studies.quality.records import TRUTH, Results, Settings
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.bench.studies.records import find
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
_SCORES = ("sliced_wasserstein", "mmd", "covered", "off_modes", "kl")
_TRAINING = ("training_cpu_s", "loss", "learning_rate", "parameters", "trained_parameters")


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
        counts = sorted(count for row in of_policy.values() for count in row.values.get("parameters", ()))
        line = [name, " to ".join(f"{count:,.0f}" for count in dict.fromkeys(counts[:1] + counts[-1:]))]
        for size, quantity in product(sizes, ("act 1", "act 256", "training_cpu_s")):
            some = (row.spread(quantity) for density, row in of_policy.items() if DENSITIES[density].size == size)
            line.append(median(found.mean for found in some if found))
        lines.append(line)
    return head, lines


def median(times: Iterable[float]) -> str:
    """Return the median as text; nothing of nothing."""
    known = list(times)
    return duration(statistics.median(known)) if known else ""


class QualityReport(Report[Results]):
    """Declaration of the report."""

    name = "quality"
    title = "Quality beside speed"
    introduction = (
        "Every policy learns the same conditional densities from the same batches, in as many steps, with the same "
        "optimiser (AdamW), schedule (warm-up, cosine) and average of the weights. Depths and proportions are each "
        "algorithm's own, and widths give the networks that act as many parameters. The learning rate is each policy's "
        "best of one grid by its own held-out loss. Three densities are Gaussians or mixtures of them, gaussians_25 "
        "exactly as a mixture density network has them: it is at home there."
    )
    caption = (
        "Each density has two charts: the sliced Wasserstein distance from it (lower is better) against the median "
        "time of one action, and against the CPU time of a training, which two policies may share. Bars are a "
        "standard deviation over seeds to either side. The line joins the policies to which none is preferable in "
        "both. Nothing can be expected below the dashed line, the distance of an equally large sample of the density "
        "itself. nfkern's own policies alone are green."
    )
    kind = Results
    policies = POLICIES
    ours = ("nf", "nf_denoised")
    presets: ClassVar[dict[tuple[str, ...], Any]] = {(): DEFAULT, QUICK_WORDS: QUICK}
    options = ("densities", "policies", "steps", "seeds", "parameters")
    measure = Measure("sliced_wasserstein", "sliced Wasserstein", 1)
    better = "nearer to the density than"
    costs = (Cost("act 1", "time of one action"), Cost("training_cpu_s", "CPU time of a training"))

    def rows(self, results: Results) -> Rows:
        """Return the numbers, those of the density itself under `TRUTH` last.

        `kl` is the divergence from the density, nats: the NLL less that of the density on the same pairs.
        """
        found: Rows = {}
        for density, policy in product(results.settings.densities, (*results.settings.policies, TRUTH)):
            truth = next((fit.scores for fit in find(results.fits, density=density, policy=TRUTH) if fit.scores), None)
            fits = find(results.fits, density=density, policy=policy)
            known = [asdict(fit) | asdict(fit.scores) for fit in fits if fit.scores]
            for each in known:
                each["kl"] = each["nll"] - truth.nll if truth and each["nll"] is not None else None
            names = _SCORES if policy == TRUTH else _SCORES + _TRAINING
            values = {name: [each[name] for each in known if each[name] is not None] for name in names}
            error = next((fit.error for fit in fits if fit.error), None)
            row = Row(
                {name: some for name, some in values.items() if some} | results.times(density, policy=policy),
                error=error,
            )
            if row.values or row.error:
                found.setdefault(density, {})[policy] = row
        return found

    def line(self, results: Results, condition: str, rows: Mapping[str, Row]) -> float | None:
        """Return the distance of samples of the density itself."""
        found = rows[TRUTH].spread(self.measure.name) if TRUTH in rows else None
        return found.mean if found else None

    def described(self, results: Results) -> str:
        """Return machine, recipe and sizes."""
        settings = results.settings
        rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
        return (
            f"{measured_on(results, results.threads, ('torch', 'zuko'))}. {settings.steps} steps of "
            f"{settings.batch_size} pairs, {counted(len(settings.seeds), 'seed')}, about {settings.parameters:,} "
            f"parameters. Learning rates from {rates} by the held-out loss after {settings.trial_steps} steps on a "
            f"seed of its own. Scores at {settings.contexts} contexts with {settings.samples} samples each, "
            f"log-likelihoods on {settings.pairs:,} pairs."
        )

    def remarks(self, results: Results, condition: str, rows: Mapping[str, Row]) -> list[str]:
        """Return the front."""
        return [f"no policy is both faster and nearer than these: {self.best(rows)}."]

    def sections(self, results: Results, rows: Rows) -> list[tuple[str, str, list[Table]]]:
        """Return costs, then each density."""
        title = "Time of act for 1 and 256 observations, and CPU time of training"
        each = [(name, DENSITIES[name].summary, [of_density(some)]) for name, some in rows.items()]
        return [(title, "", [costs(results, rows)]), *each]

    def tables(self, results: Results, rows: Rows) -> list[tuple[str, Table]]:
        """Return the tables of docs/records/quality.md: a density a column."""
        told = [name for name in results.settings.policies if POLICIES[name].density]
        every = [name for name in (*results.settings.policies, TRUTH) if any(name in some for some in rows.values())]

        def modes(row: Row) -> str:
            return f"{row.cell('covered', percent)} / {row.cell('off_modes', percent)}"

        def each(title: str, names: list[str], name: str, digits: int) -> tuple[str, Table]:
            return title, across(rows, names, lambda row: row.cell(name, number(digits)), NAMES)

        times = "Time of `act` for 1 and 256 observations, and CPU time of training, by the numbers of a decision:"
        return [
            each("Sliced Wasserstein distance, in units of actions, which span [-1, 1]:", every, _SCORES[0], 4),
            each("Maximum mean discrepancy:", every, "mmd", 4),
            ("Modes that got at least half of their due / samples on no mode:", across(rows, every, modes, NAMES)),
            each("KL divergence in nats, where the policy has a density:", told, "kl", 3),
            (times, costs(results, rows)),
        ]


REPORT = QualityReport()
