"""`nfkern bench quality`: trials of learning rates, then trainings with their scores."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.bench.core.timing import Budget, num_threads
from nfkern.bench.studies.policies import Policy, Training
from nfkern.bench.studies.quality.densities import Density
from nfkern.bench.studies.quality.metrics import held_out, score
from nfkern.bench.studies.quality.policies import POLICIES, TRAININGS, build, fitted_width, log_density, recipe
from nfkern.bench.studies.quality.records import TRUTH, Fit, Latency, Results, Scores, Settings, Trial
from nfkern.bench.studies.quality.report import DEFAULT, REPORT
from nfkern.bench.studies.quality.shapes import DENSITIES
from nfkern.bench.studies.records import find
from nfkern.bench.studies.study import Piece, Study, attempt, chosen_names
from nfkern.errors import UserError, check_least

BATCHES = (1, 256)
"""Numbers of observations of the times of acting."""

HELD_OUT_BATCHES = 32
_TRIAL_SEED = 10_000
_HELD_OUT_SEED = 20_000


@dataclass(frozen=True)
class Quality(Study[Results]):
    """Train policies of equal size on known densities; say how near they come and what an action costs.

    Flow, Gaussian, mixture, diffusion, flow matching, distilled flow matching and spline flows see the same batches for
    as many steps; the learning rate of each is chosen from one grid by held-out loss, in trainings as long as the
    others. One thread. One to three hours on a core of its own. Every piece of work is in the file as soon as it is
    done: after Ctrl-C, the same command goes on.
    """

    report = REPORT
    trainings = TRAININGS
    latency = Latency
    acting = Budget(warmup_s=0.05, measure_s=0.2, min_repeats=11, limit_s=2.0)

    densities: tuple[str, ...] = DEFAULT.densities
    """Which densities."""
    policies: tuple[str, ...] = DEFAULT.policies
    """Which policies."""
    parameters: int = DEFAULT.parameters
    """Numbers in the networks that act."""

    def changes(self, preset: Settings) -> dict[str, Any]:
        """Return densities, policies, size and steps; trials of a learning rate are as long as trainings."""
        check_least({"parameters": self.parameters})
        steps = {} if self.steps is None else {"steps": self.steps, "trial_steps": self.steps}
        return steps | {
            "densities": chosen_names("densities", self.densities, DENSITIES),
            "policies": chosen_names("policies", self.policies, POLICIES),
            "parameters": self.parameters,
        }

    def prepare(self, results: Results) -> None:
        """Refuse a size that a policy cannot have."""
        for name, training in product(results.settings.densities, self.trained(results)):
            try:
                fitted_width(training, DENSITIES[name], results.settings.parameters)
            except ValueError as error:
                raise UserError(f"--parameters: {training.name} on {name}: {error}") from None

    def work(self, results: Results) -> Iterator[Piece]:
        """Yield trials, then trainings, a whole seed before the next."""
        settings, trained = results.settings, self.trained(results)
        for name, training, rate in product(settings.densities, trained, settings.learning_rates):
            if not find(results.trials, density=name, training=training.name, learning_rate=rate):
                run = partial(_try, results, DENSITIES[name], training, rate)
                yield Piece(f"{name}: {training.name} at learning rate {rate:g}", run)
        for seed, name in product(settings.seeds, settings.densities):
            if not find(results.fits, density=name, policy=TRUTH, seed=seed):
                yield Piece(f"{name}: its own samples", partial(_sample_truth, results, DENSITIES[name], seed))
            for training, policies in trained.items():
                left = [each for each in policies if not find(results.fits, density=name, policy=each.name, seed=seed)]
                if left:
                    run = partial(_fit, results, DENSITIES[name], training, left, seed)
                    yield Piece(f"{name}: {training.name}, seed {seed}", run)

    def untrained(self, results: Results, condition: str, training: Training) -> BehavioralCloning:
        """Return an agent of the study's size."""
        return _fresh(results, DENSITIES[condition], training, results.settings.steps, DEFAULT.learning_rates[0], 0)

    def inputs(self, results: Results, condition: str) -> list[tuple[Any, ...]]:
        """Return contexts of the density."""
        density = DENSITIES[condition]
        contexts = (density.contexts(batch, torch.Generator().manual_seed(0)) for batch in BATCHES)
        return [(each[:, None].float().numpy(),) for each in contexts]


def chosen_rate(results: Results, density: str, training: str) -> float:
    """Return the learning rate with the lowest held-out loss.

    Raises:
        ValueError: every trial failed.
    """
    trials = find(results.trials, density=density, training=training)
    losses = {row.learning_rate: row.loss for row in trials if row.loss is not None}
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
    known, generator = held_out(density, results.settings), torch.Generator().manual_seed(_HELD_OUT_SEED + 1 + seed)
    found = score(density, known, lambda contexts: density.sample(contexts, generator), density.log_prob)
    results.fits.append(Fit(density.name, TRUTH, seed, scores=found))


@num_threads(1)
def _fit(results: Results, density: Density, training: Training, policies: list[Policy], seed: int) -> None:
    """Train, then score the policies."""

    def fit() -> tuple[BehavioralCloning, Fit]:
        rate = chosen_rate(results, density.name, training.name)
        agent = _fresh(results, density, training, results.settings.steps, rate, seed)
        seconds = train(agent, density, seed)
        loss = _held_out_loss(results, density, agent)
        return agent, Fit(density.name, "", seed, rate, *training.count_parameters(agent), seconds, loss)

    fitted, error = attempt(fit)
    for policy in policies:
        if fitted is None:
            results.fits.append(Fit(density.name, policy.name, seed, error=error))
        else:
            agent, found = fitted
            scores, reason = attempt(partial(_scores, results, density, policy, agent, seed))
            results.fits.append(replace(found, policy=policy.name, scores=scores, error=reason))


def _scores(results: Results, density: Density, policy: Policy, trained: BehavioralCloning, seed: int) -> Scores:
    agent = policy.acting_agent(trained)
    frozen = agent.freeze()
    generator = torch.Generator().manual_seed(_HELD_OUT_SEED + 1 + seed)

    def sample(contexts: torch.Tensor) -> torch.Tensor:
        actions = frozen.act(contexts[:, None].float().numpy(), generator=generator)
        return torch.from_numpy(actions).double().flatten(1)

    density_of = partial(log_density, agent) if policy.density else None
    return score(density, held_out(density, results.settings), sample, density_of)
