"""The study in pieces of work: times of acting, trials of learning rates, trainings with their scores.

A piece that is in the results already is not done again, so an interrupted study goes on where it was.
"""

import math
import time
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.bench.core.timing import Budget, num_threads
from nfkern.bench.studies.command import Piece, described_error
from nfkern.bench.studies.policies import Policy, Training, acting_agent, count_parameters, time_acting
from nfkern.bench.studies.quality.densities import Density
from nfkern.bench.studies.quality.metrics import HeldOut, score
from nfkern.bench.studies.quality.policies import POLICIES, TRAININGS, build, log_density, recipe
from nfkern.bench.studies.quality.records import TRUTH, Fit, Latency, Results, Scores, Trial
from nfkern.bench.studies.quality.shapes import DENSITIES

BATCHES = (1, 256)
"""Batches of the times of acting."""

ACTING = Budget(warmup_s=0.05, measure_s=0.2, min_repeats=11, limit_s=2.0)

HELD_OUT_BATCHES = 32
_TRIAL_SEED = 10_000
_HELD_OUT_SEED = 20_000


def pieces(results: Results) -> Iterator[Piece]:
    """Yield the work that the results lack: times, trials, then trainings, a whole seed before the next."""
    settings = results.settings
    densities = [DENSITIES[name] for name in settings.densities]
    for density in densities:
        if not any(row.density == density.name for row in results.latencies):
            yield Piece(f"{density.name}: times of acting", partial(_time, results, density))
    tried = {(row.density, row.training, row.learning_rate) for row in results.trials}
    for density in densities:
        for training in trainings(results):
            for rate in settings.learning_rates:
                if (density.name, training.name, rate) not in tried:
                    name = f"{density.name}: {training.name} at learning rate {rate:g}"
                    yield Piece(name, partial(_try, results, density, training, rate))
    done = {(row.density, row.policy, row.seed) for row in results.fits}
    for seed in settings.seeds:
        for density in densities:
            if (density.name, TRUTH, seed) not in done:
                yield Piece(f"{density.name}: its own samples", partial(_sample_truth, results, density, seed))
            for training in trainings(results):
                if not all((density.name, policy.name, seed) in done for policy in policies(results, training)):
                    name = f"{density.name}: {training.name}, seed {seed}"
                    yield Piece(name, partial(_fit, results, density, training, seed))


def policies(results: Results, training: Training) -> list[Policy]:
    """Return the policies of a training."""
    return [POLICIES[name] for name in results.settings.policies if POLICIES[name].training == training.name]


def trainings(results: Results) -> list[Training]:
    """Return the trainings of the policies that can run here, each once."""
    names = (POLICIES[name].training for name in results.settings.policies if name not in results.skipped)
    return [TRAININGS[name] for name in dict.fromkeys(names)]


def chosen_rate(results: Results, density: str, training: str) -> float:
    """Return the learning rate with the lowest held-out loss.

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


def train(agent: BehavioralCloning, density: Density, seed: int) -> float:
    """Take all gradient steps on the batches of a seed, the same for every agent; return their CPU seconds alone."""
    stream, noise = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    seconds = 0.0
    for _ in range(agent.config.steps):
        batch = batch_of(density, agent.config.batch_size, stream)
        start = time.process_time()
        agent.update(batch, noise)
        seconds += time.process_time() - start
    return seconds


def batch_of(density: Density, rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Draw fresh observations and actions: nothing is seen twice, so nothing can be overfitted."""
    contexts = density.contexts(rows, generator)
    return {"observations": contexts, "actions": density.sample(contexts, generator)}


def _fresh(
    results: Results, density: Density, training: Training, steps: int, rate: float, seed: int
) -> BehavioralCloning:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = results.settings
        return build(training, density, settings.parameters, recipe(steps, settings.batch_size, rate))


def _time(results: Results, density: Density) -> None:
    """Policies take turns; their weights are untrained, which changes no time."""
    agents: dict[str, BehavioralCloning] = {}
    for training in trainings(results):
        agent = _fresh(results, density, training, results.settings.steps, results.settings.learning_rates[0], 0)
        agents |= {policy.name: acting_agent(policy, agent) for policy in policies(results, training)}
    contexts = [density.contexts(batch, torch.Generator().manual_seed(0)) for batch in BATCHES]
    inputs = [(each[:, None].float().numpy(),) for each in contexts]
    results.latencies += [Latency(density.name, *found) for found in time_acting(agents, inputs, ACTING)]


@num_threads(1)
def _try(results: Results, density: Density, training: Training, rate: float) -> None:
    """Train with one learning rate, on a seed that no result uses, and take the held-out loss."""
    agent = _fresh(results, density, training, results.settings.trial_steps, rate, _TRIAL_SEED)
    train(agent, density, _TRIAL_SEED)
    results.trials.append(Trial(density.name, training.name, rate, _held_out_loss(results, density, agent)))


@torch.no_grad()
def _held_out_loss(results: Results, density: Density, agent: BehavioralCloning) -> float | None:
    stream, noise = (torch.Generator().manual_seed(_HELD_OUT_SEED) for _ in range(2))
    batches = [batch_of(density, results.settings.batch_size, stream) for _ in range(HELD_OUT_BATCHES)]
    loss = float(np.mean([float(agent.loss(batch, noise)[0]) for batch in batches]))
    return loss if math.isfinite(loss) else None


@num_threads(1)
def _sample_truth(results: Results, density: Density, seed: int) -> None:
    held_out = HeldOut.of(density, results.settings)
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED + 1 + seed)
    found = score(density, held_out, lambda contexts: density.sample(contexts, generator), density.log_prob)
    results.fits.append(Fit(density.name, TRUTH, seed, scores=found))


@num_threads(1)
def _fit(results: Results, density: Density, training: Training, seed: int) -> None:
    """Train, then score every policy of the training; what breaks one must not take the others with it."""
    wanted = policies(results, training)
    try:
        rate = chosen_rate(results, density.name, training.name)
        agent = _fresh(results, density, training, results.settings.steps, rate, seed)
        seconds = train(agent, density, seed)
        loss = _held_out_loss(results, density, agent)
    except Exception as error:
        results.fits += [Fit(density.name, policy.name, seed, error=described_error(error)) for policy in wanted]
        return
    common = (seed, rate, *count_parameters(training, agent), seconds, loss)
    for policy in wanted:
        try:
            scores, reason = _scores(results, density, policy, agent, seed), None
        except Exception as error:
            scores, reason = None, described_error(error)
        results.fits.append(Fit(density.name, policy.name, *common, scores=scores, error=reason))


def _scores(results: Results, density: Density, policy: Policy, trained: BehavioralCloning, seed: int) -> Scores:
    agent = acting_agent(policy, trained)
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED + 1 + seed)

    def sample(contexts: torch.Tensor) -> torch.Tensor:
        actions = agent.act(contexts[:, None].float().numpy(), generator=generator)
        return torch.from_numpy(actions).double().flatten(1)

    density_of = partial(log_density, agent) if policy.density else None
    return score(density, HeldOut.of(density, results.settings), sample, density_of)
