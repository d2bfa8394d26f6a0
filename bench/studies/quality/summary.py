"""Results in short: means and spreads over seeds, and who is ahead of the flow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nfkern.bench.studies.quality.records import TRUTH, Fit, Results
from nfkern.bench.studies.summary import Spread

OURS = ("nf", "nf_denoised")
"""nfkern's own policies: reports say where others are ahead of them."""


@dataclass(frozen=True)
class Summary:
    """A policy on a density; the quantities are those of `Scores` and `Fit`.

    Attributes:
        kl: divergence of the policy from the density, nats: its NLL less that of the density on the same pairs.
        loss: the training's own, on held-out pairs.
        latencies: median seconds of `act` by number of observations.
        seeds: how many trainings succeeded.
        error: why there are no scores.
    """

    density: str
    policy: str
    seeds: int
    sliced_wasserstein: Spread | None = None
    mmd: Spread | None = None
    covered: Spread | None = None
    off_modes: Spread | None = None
    kl: Spread | None = None
    training_cpu_s: Spread | None = None
    loss: Spread | None = None
    learning_rate: float | None = None
    parameters: int = 0
    trained_parameters: int = 0
    latencies: Mapping[int, float] | None = None
    error: str | None = None


def summaries(results: Results) -> dict[str, dict[str, Summary]]:
    """By density, then by policy, the density itself under `TRUTH` last; only what has been fitted."""
    settings = results.settings
    found: dict[str, dict[str, Summary]] = {}
    for density in settings.densities:
        for policy in (*settings.policies, TRUTH):
            fits = [fit for fit in results.fits if (fit.density, fit.policy) == (density, policy)]
            if fits:
                found.setdefault(density, {})[policy] = _summary(results, density, policy, fits)
    return found


def _summary(results: Results, density: str, policy: str, fits: Sequence[Fit]) -> Summary:
    scores = [fit.scores for fit in fits if fit.scores]
    if not scores:
        return Summary(density, policy, 0, error=fits[0].error)
    truth = next(
        (fit.scores.nll for fit in results.fits if (fit.density, fit.policy) == (density, TRUTH) and fit.scores), None
    )
    told = [score.nll - truth for score in scores if score.nll is not None and truth is not None]
    trained = [fit for fit in fits if fit.scores]
    losses = [fit.loss for fit in trained if fit.loss is not None]
    rows = (row for row in results.latencies if (row.density, row.policy) == (density, policy))
    return Summary(
        density,
        policy,
        len(scores),
        sliced_wasserstein=Spread.of([score.sliced_wasserstein for score in scores]),
        mmd=Spread.of([score.mmd for score in scores]),
        covered=Spread.of([score.covered for score in scores]),
        off_modes=Spread.of([score.off_modes for score in scores]),
        kl=Spread.of(told) if told else None,
        training_cpu_s=Spread.of([fit.training_cpu_s for fit in trained]),
        loss=Spread.of(losses) if losses else None,
        learning_rate=trained[0].learning_rate,
        parameters=trained[0].parameters,
        trained_parameters=trained[0].trained_parameters,
        latencies={row.batch: row.quantiles.median_s for row in rows},
        error=next((fit.error for fit in fits if fit.error), None),
    )


def time_of_action(row: Summary) -> float | None:
    """Median seconds of `act` for one observation, where they are known."""
    return (row.latencies or {}).get(1)


def training_time(row: Summary) -> float | None:
    """Mean CPU seconds of a training, where there was one."""
    return row.training_cpu_s.mean if row.training_cpu_s and row.policy != TRUTH else None


def points(
    rows: Iterable[Summary], cost: Callable[[Summary], float | None] = time_of_action
) -> dict[str, tuple[float, float]]:
    """What a policy costs, and its sliced Wasserstein distance, where there are both."""
    return {
        row.policy: (seconds, row.sliced_wasserstein.mean)
        for row in rows
        if row.sliced_wasserstein and (seconds := cost(row)) is not None
    }


def ahead(rows: Mapping[str, Summary], ours: str) -> list[str]:
    """Policies whose samples are nearer to the density than `ours`, by more than the seeds' spreads; nearest first."""
    own = rows[ours].sliced_wasserstein
    others = [
        (theirs.mean, name)
        for name, row in rows.items()
        if name not in (*OURS, TRUTH) and (theirs := row.sliced_wasserstein) and own and own.above(theirs)
    ]
    return [name for _, name in sorted(others)]
