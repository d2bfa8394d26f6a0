"""The study in pieces of work: times of acting, trials of learning rates, trainings with their scores.

A piece that is in the results already is not done again, so an interrupted study goes on where it was.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.bench.core.timing import Budget, interleaved, stopwatch_for
from nfkern.bench.studies.policies import Policy, Training, acting_agent, count_parameters
from nfkern.bench.studies.quality.building import build, log_density
from nfkern.bench.studies.quality.densities import Density
from nfkern.bench.studies.quality.policies import POLICIES, TRAININGS, Recipe
from nfkern.bench.studies.quality.records import TRUTH, Fit, Latency, Results, Scores, Trial
from nfkern.bench.studies.quality.scoring import HeldOut, score
from nfkern.bench.studies.quality.shapes import DENSITIES

BATCHES = (1, 256)
"""Of the times of acting."""

ACTING = Budget(warmup_s=0.05, measure_s=0.2, min_repeats=11, limit_s=2.0)

HELD_OUT_BATCHES = 32
_TRIAL_SEED = 10_000
_HELD_OUT_SEED = 20_000

Step = Callable[[], object]
"""Called after each gradient step, and after a density's times."""


@dataclass(frozen=True)
class Piece:
    """A piece of work: its name, how often it calls `Step`, and what does it and adds to the results."""

    name: str
    steps: int
    run: Callable[[Step], None]


def timing_pieces(results: Results) -> Iterator[Piece]:
    """The times of acting that the results lack."""
    for density in (DENSITIES[name] for name in results.settings.densities):
        if not any(row.density == density.name for row in results.latencies):
            yield Piece(f"{density.name}: times of acting", 1, partial(_time, results, density))


def training_pieces(results: Results) -> Iterator[Piece]:
    """The trials, then the trainings that the results lack, a whole seed before the next."""
    settings = results.settings
    for density in (DENSITIES[name] for name in settings.densities):
        for training in trainings(results):
            for rate in settings.learning_rates:
                wanted = (density.name, training.name, rate)
                if not any((row.density, row.training, row.learning_rate) == wanted for row in results.trials):
                    name = f"{density.name}: {training.name} at learning rate {rate:g}"
                    yield Piece(name, settings.trial_steps, partial(_try, results, density, training, rate))
    for seed in settings.seeds:
        for density in (DENSITIES[name] for name in settings.densities):
            done = {row.policy for row in results.fits if (row.density, row.seed) == (density.name, seed)}
            if TRUTH not in done:
                yield Piece(f"{density.name}: its own samples", 0, partial(_sample_truth, results, density, seed))
            for training in trainings(results):
                if not {policy.name for policy in policies(results, training)} <= done:
                    name = f"{density.name}: {training.name}, seed {seed}"
                    yield Piece(name, settings.steps, partial(_fit, results, density, training, seed))


def policies(results: Results, training: Training | None = None) -> list[Policy]:
    """Those that can run here, of one training if one is given."""
    names = [name for name in results.settings.policies if name not in results.skipped]
    return [POLICIES[name] for name in names if training is None or POLICIES[name].training == training.name]


def trainings(results: Results) -> list[Training]:
    """What the policies need, each once."""
    return [TRAININGS[name] for name in dict.fromkeys(policy.training for policy in policies(results))]


def chosen_rate(results: Results, density: str, training: str) -> float:
    """The learning rate with the lowest held-out loss.

    Raises:
        ValueError: every trial failed.
    """
    losses = {
        row.learning_rate: row.loss
        for row in results.trials
        if (row.density, row.training) == (density, training) and row.loss is not None
    }
    if not losses:
        raise ValueError("no learning rate of the grid gave a finite held-out loss")
    return min(losses, key=losses.__getitem__)


def train(agent: BehavioralCloning, density: Density, seed: int, step: Step) -> float:
    """All gradient steps on the batches of a seed, the same for every agent; CPU seconds of the steps alone."""
    stream, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    seconds = 0.0
    for _ in range(agent.config.steps):
        batch = batch_of(density, agent.config.batch_size, stream)
        start = time.process_time()
        agent.update(batch, noise)
        seconds += time.process_time() - start
        step()
    return seconds


def batch_of(density: Density, rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Fresh observations and actions: nothing is seen twice, so nothing can be overfitted."""
    contexts = density.contexts(rows, generator)
    return {"observations": contexts, "actions": density.sample(contexts, generator)}


def _fresh(
    results: Results, density: Density, training: Training, steps: int, rate: float, seed: int
) -> BehavioralCloning:
    recipe = Recipe(steps, results.settings.parameters, results.settings.batch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(training, density, recipe, rate)


def _time(results: Results, density: Density, done: Step) -> None:
    """Policies take turns; their weights are untrained, which changes no time."""
    agents: dict[str, BehavioralCloning] = {}
    for training in trainings(results):
        agent = _fresh(results, density, training, results.settings.steps, results.settings.learning_rates[0], 0)
        agents |= {policy.name: acting_agent(policy, agent) for policy in policies(results, training)}
    for batch in BATCHES:
        contexts = density.contexts(batch, torch.Generator().manual_seed(0))
        observations = contexts[:, None].float().numpy()
        calls = {name: [partial(agent.act, observations)] for name, agent in agents.items()}
        times = interleaved(calls, ACTING, stopwatch_for(torch.device("cpu")))
        results.latencies += [Latency(density.name, name, batch, found) for name, found in times.items()]
    done()


def _try(results: Results, density: Density, training: Training, rate: float, step: Step) -> None:
    """Train with one learning rate, on a seed that no result uses, and take the held-out loss."""
    agent = _fresh(results, density, training, results.settings.trial_steps, rate, _TRIAL_SEED)
    train(agent, density, _TRIAL_SEED, step)
    results.trials.append(Trial(density.name, training.name, rate, _held_out_loss(results, density, agent)))


@torch.no_grad()
def _held_out_loss(results: Results, density: Density, agent: BehavioralCloning) -> float | None:
    stream, noise = (torch.Generator().manual_seed(_HELD_OUT_SEED) for _ in range(2))
    batches = [batch_of(density, results.settings.batch_size, stream) for _ in range(HELD_OUT_BATCHES)]
    loss = float(np.mean([float(agent.loss(batch, noise)[0]) for batch in batches]))
    return loss if math.isfinite(loss) else None


def _sample_truth(results: Results, density: Density, seed: int, step: Step) -> None:
    held_out = HeldOut.of(density, results.settings)
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED + 1 + seed)
    found = score(density, held_out, lambda contexts: density.sample(contexts, generator), density.log_prob)
    results.fits.append(Fit(density.name, TRUTH, seed, scores=found))


def _fit(results: Results, density: Density, training: Training, seed: int, step: Step) -> None:
    """Train, then score every policy of the training; what breaks one must not take the others with it."""
    wanted = policies(results, training)
    try:
        rate = chosen_rate(results, density.name, training.name)
        agent = _fresh(results, density, training, results.settings.steps, rate, seed)
        seconds = train(agent, density, seed, step)
        loss = _held_out_loss(results, density, agent)
    except Exception as error:
        results.fits += [Fit(density.name, policy.name, seed, error=_words(error)) for policy in wanted]
        return
    common = (seed, rate, *count_parameters(training, agent), seconds, loss)
    for policy in wanted:
        found, reason = _scored(results, density, policy, agent, seed)
        results.fits.append(Fit(density.name, policy.name, *common, scores=found, error=reason))


def _scored(
    results: Results, density: Density, policy: Policy, trained: BehavioralCloning, seed: int
) -> tuple[Scores | None, str | None]:
    try:
        agent = acting_agent(policy, trained)
        generator = torch.Generator().manual_seed(_HELD_OUT_SEED + 1 + seed)

        def sample(contexts: torch.Tensor) -> torch.Tensor:
            actions = agent.act(contexts[:, None].float().numpy(), generator=generator)
            return torch.from_numpy(actions).double().flatten(1)

        density_of = partial(log_density, agent) if policy.density else None
        return score(density, HeldOut.of(density, results.settings), sample, density_of), None
    except Exception as error:
        return None, _words(error)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
