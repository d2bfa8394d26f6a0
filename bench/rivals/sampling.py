"""Batches of goal-conditioned transitions: nfkern's sampler, and a loop over rows."""

import numpy as np

from nfkern.algorithms.data import BatchSampler, GoalSampling
from nfkern.bench.core.declarations import Implementation, Variant
from nfkern.bench.works.data_works import GAMMA, DataProblem


def nfkern_sampler(problem: DataProblem) -> Implementation:
    """`nfkern.algorithms.data.BatchSampler`."""
    goals = GoalSampling.geometric(GAMMA)
    return Implementation(BatchSampler(problem.dataset, problem.batch, goals, next_observations=True).sample)


def row_loop(problem: DataProblem) -> Implementation:
    """One transition at a time: draw a row and a goal, collect, stack."""
    dataset, generator = problem.dataset, np.random.default_rng(0)
    end_of_row = np.repeat(dataset.episode_ends, dataset.episode_ends - dataset.episode_starts + 1)

    def transition() -> dict[str, np.ndarray | np.float32]:
        row = generator.integers(len(dataset.observations))
        while row == end_of_row[row]:
            row = generator.integers(len(dataset.observations))
        goal = min(row + generator.geometric(1 - GAMMA), end_of_row[row])
        return {
            "observations": dataset.observations[row],
            "actions": dataset.actions[row],
            "next_observations": dataset.observations[row + 1],
            "goals": dataset.observations[goal],
            "rewards": np.float32(-1),
            "masks": np.float32(1),
        }

    def sample() -> dict[str, np.ndarray]:
        transitions = [transition() for _ in range(problem.batch)]
        return {key: np.stack([t[key] for t in transitions]) for key in transitions[0]}

    return Implementation(sample)


VARIANTS = (
    Variant("row_loop", "sampling transitions one by one in Python", {"data_sampling": row_loop}, standing="plain"),
)
