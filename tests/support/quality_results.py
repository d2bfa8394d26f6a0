"""Results of the quality study to store, sum up and report."""

from dataclasses import replace

from nfkern.bench.studies.quality.records import TRUTH, Fit, Latency, Results, Scores, Settings, Trial
from support.bench_records import ENVIRONMENT, spread

SETTINGS = Settings(densities=("pinwheel", "chunk"), policies=("nf", "mixture", "ddpm_100"), seeds=(0, 1))


def fit(density: str, policy: str, seed: int, distance: float, nll: float | None = None, **changes: object) -> Fit:
    """A fit with this sliced Wasserstein distance."""
    scores = Scores(distance, 2 * distance, covered=0.75, off_modes=0.1, nll=nll)
    return replace(Fit(density, policy, seed, 1e-3, 64_000, 64_000, 12.5, 0.5, scores), **changes)


def results() -> Results:
    """The mixture is nearer than the flow on `pinwheel` and as near on `chunk`; diffusion is slow, and failed there."""
    found = Results(settings=SETTINGS, environment=ENVIRONMENT, started="2026-11-20T10:00:00+00:00")
    times = {"nf": 3e-4, "mixture": 2e-4, "ddpm_100": 5e-2}
    for density in SETTINGS.densities:
        found.latencies += [
            Latency(density, policy, batch, spread(seconds * batch**0.5))
            for policy, seconds in times.items()
            for batch in (1, 256)
        ]
        found.trials += [Trial(density, policy, rate, rate) for policy in times for rate in SETTINGS.learning_rates]
        for seed in SETTINGS.seeds:
            found.fits += [
                fit(density, TRUTH, seed, 0.005 + 0.001 * seed, -1.0, learning_rate=None, parameters=0),
                fit(density, "nf", seed, 0.03 + 0.002 * seed, -0.8 - 0.1 * seed),
                fit(density, "mixture", seed, {"pinwheel": 0.01, "chunk": 0.031}[density] + 0.002 * seed, -0.9),
            ]
            failed = density == "chunk"
            diffusion = fit(density, "ddpm_100", seed, 0.02)
            found.fits.append(replace(diffusion, scores=None, error="ValueError: <bad>") if failed else diffusion)
    return found
