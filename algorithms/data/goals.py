"""Goals that a goal-conditioned batch is relabelled with."""

from dataclasses import dataclass

import numpy as np

from .transitions import TransitionDataset


@dataclass(frozen=True)
class GoalSampling:
    """A mixture of three kinds of hindsight goals; goals are whole observations.

    - the current observation, with probability `p_current`;
    - a later observation of the same episode, with probability `p_trajectory`: at an offset ~ Geometric(1 - gamma),
      at least 1 and clipped to the episode's last row, or, where `gamma` is None, uniform over all later rows;
    - the observation of a random transition, with probability `p_random`.

    The clipped geometric offsets are those of the paper's NF-GCBC. The mixture is OGBench's, with two small
    differences: the last row of an episode can be a goal (OGBench stops one row earlier), and the uniform future is
    exactly uniform (OGBench's rounding gives its first and last row half the weight).

    Args:
        p_current: Probability of the current observation.
        p_trajectory: Probability of a later observation of the same episode.
        p_random: Probability of any observation of the dataset.
        gamma: Discount of the geometric offsets, in [0, 1); None means uniform.
        negative_rewards: Rewards are -1 until the goal is reached, then 0 (OGBench's default); otherwise 0, then 1.

    Raises:
        ValueError: If the probabilities are negative or do not sum to 1, or gamma is out of range.
    """

    p_current: float = 0.0
    p_trajectory: float = 1.0
    p_random: float = 0.0
    gamma: float | None = None
    negative_rewards: bool = True

    def __post_init__(self) -> None:
        probabilities = (self.p_current, self.p_trajectory, self.p_random)
        if min(probabilities) < 0 or abs(sum(probabilities) - 1.0) > 1e-6:
            raise ValueError(f"p_current, p_trajectory and p_random must be >= 0 and sum to 1, got {probabilities}")
        if self.gamma is not None and not 0 <= self.gamma < 1:
            raise ValueError(f"gamma must lie in [0, 1) or be None, got {self.gamma}")

    @classmethod
    def geometric(cls, gamma: float) -> "GoalSampling":
        """Later observations at geometric offsets: the paper's choice, with gamma 0.97 or 0.99."""
        return cls(gamma=gamma)

    @classmethod
    def uniform(cls) -> "GoalSampling":
        """Any later observation of the episode with equal probability: OGBench's choice for GCBC."""
        return cls()

    @classmethod
    def random(cls) -> "GoalSampling":
        """Any observation of the dataset."""
        return cls(p_trajectory=0.0, p_random=1.0)

    @classmethod
    def current(cls) -> "GoalSampling":
        """The observation itself."""
        return cls(p_current=1.0, p_trajectory=0.0)

    def sample_rows(
        self, generator: np.random.Generator, dataset: TransitionDataset, rows: np.ndarray, episodes: np.ndarray
    ) -> np.ndarray:
        """Draw the row of a goal for each transition.

        Args:
            generator: Source of randomness.
            dataset: The dataset that the rows belong to.
            rows: Rows at which the transitions start, shape (batch,).
            episodes: Their episodes, shape (batch,).

        Returns:
            Rows of the goals, shape (batch,).
        """
        goal_rows = rows
        if self.p_trajectory > 0:
            goal_rows = self._later_rows(generator, rows, dataset.episode_ends[episodes])
        if self.p_current == 1 or self.p_trajectory == 1:
            return goal_rows
        kind = generator.random(len(rows))
        if self.p_random > 0:
            random_rows, _ = dataset.locate(generator.integers(len(dataset), size=len(rows)))
            goal_rows = np.where(kind < self.p_random, random_rows, goal_rows)
        return np.where(kind >= 1.0 - self.p_current, rows, goal_rows)

    def _later_rows(self, generator: np.random.Generator, rows: np.ndarray, last_rows: np.ndarray) -> np.ndarray:
        if self.gamma is None:
            return np.asarray(generator.integers(rows + 1, last_rows, endpoint=True))
        offsets = generator.geometric(1.0 - self.gamma, size=len(rows))
        return np.asarray(np.minimum(rows + offsets, last_rows))
