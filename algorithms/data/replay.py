"""An online agent's newest rows, sampled with goals that it reached later."""

from collections.abc import Mapping

import numpy as np

# In place of the last row of an episode that still lasts.
UNKNOWN = np.iinfo(np.int64).max


class TrajectoryBuffer:
    """The newest rows of environments that are stepped together, and hindsight goals from them.

    A row is an observation, the goal it achieves, and the action taken there. An episode's last row is the observation
    in which it ended; its action led nowhere, and it begins no transition. That is what gymnasium's vector
    environments give when they reset in the step after an episode's end (`AutoresetMode.NEXT_STEP`): the action of that
    step is not used.

    Args:
        num_envs: environments.
        length: rows kept of each.
        observation_size: numbers in an observation.
        action_size: numbers in an action.
        goal_size: numbers in a goal.
        seed: of the draws.

    Raises:
        ValueError: a size below 1, or fewer than two rows of each environment.
    """

    def __init__(
        self, num_envs: int, length: int, observation_size: int, action_size: int, goal_size: int, *, seed: int = 0
    ) -> None:
        sizes = {"num_envs": num_envs, "observation_size": observation_size, "action_size": action_size}
        for name, value in (sizes | {"goal_size": goal_size, "length": length}).items():
            if value < (least := 2 if name == "length" else 1):
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.num_envs, self.length = num_envs, length
        self._arrays: dict[str, np.ndarray] = {
            "observations": np.zeros((length, num_envs, observation_size), np.float32),
            "achieved": np.zeros((length, num_envs, goal_size), np.float32),
            "actions": np.zeros((length, num_envs, action_size), np.float32),
            # The last row of the episode of each row, counted from the first row ever; unknown while it lasts.
            "ends": np.zeros((length, num_envs), np.int64),
            "starts": np.zeros(num_envs, np.int64),
            "added": np.zeros(1, np.int64),
        }
        self._generator = np.random.default_rng(seed)

    @property
    def added(self) -> int:
        """Rows of each environment so far, those overwritten included."""
        return int(self._arrays["added"][0])

    def __len__(self) -> int:
        """Rows kept of each environment."""
        return min(self.added, self.length)

    def add(self, observations: np.ndarray, achieved: np.ndarray, actions: np.ndarray, last: np.ndarray) -> None:
        """Add a row of every environment.

        Args:
            observations: (num_envs, observation_size).
            achieved: (num_envs, goal_size), the goals that the observations achieve.
            actions: (num_envs, action_size), taken there.
            last: (num_envs,) bool: whether the episode ended in that observation.
        """
        row = self.added
        slot = row % self.length
        values = {"observations": observations, "achieved": achieved, "actions": actions, "ends": UNKNOWN}
        for name, value in values.items():
            self._arrays[name][slot] = value
        for env in np.flatnonzero(last):
            start = max(self._arrays["starts"][env], row + 1 - self.length)
            self._arrays["ends"][np.arange(start, row + 1) % self.length, env] = row
            self._arrays["starts"][env] = row + 1
        self._arrays["added"][0] = row + 1

    def sample(self, batch_size: int, gamma: float) -> dict[str, np.ndarray]:
        """Transitions, each equally likely, with goals from their future.

        Args:
            batch_size: how many.
            gamma: in (0, 1): goals lie Geometric(1 - gamma) >= 1 rows ahead, given that they lie within the episode so
                far.

        Returns:
            `observations` (batch, observation_size), `actions` (batch, action_size), `goals` (batch, goal_size).

        Raises:
            ValueError: no transition yet.
        """
        rows, envs, goal_rows = self._draw(batch_size, gamma)
        slots = rows % self.length
        return {
            "observations": self._arrays["observations"][slots, envs],
            "actions": self._arrays["actions"][slots, envs],
            "goals": self._arrays["achieved"][goal_rows % self.length, envs],
        }

    def sample_goals(self, count: int, gamma: float) -> np.ndarray:
        """The goals of `count` such transitions, (count, goal_size)."""
        _, envs, goal_rows = self._draw(count, gamma)
        goals: np.ndarray = self._arrays["achieved"][goal_rows % self.length, envs]
        return goals

    def achieved(self, newest: int | None = None) -> np.ndarray:
        """The goals achieved in the newest rows of every environment, or in all: (rows * num_envs, goal_size)."""
        count = len(self) if newest is None else min(len(self), newest)
        slots = np.arange(self.added - count, self.added) % self.length
        goals: np.ndarray = self._arrays["achieved"][slots].reshape(count * self.num_envs, -1)
        return goals

    def state_dict(self) -> dict[str, np.ndarray]:
        """The rows kept, by name; the draws' state is not part of it."""
        kept = {name: array for name, array in self._arrays.items() if name in ("starts", "added")}
        return kept | {name: array[: len(self)] for name, array in self._arrays.items() if name not in kept}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from `state_dict`'s rows. The episodes that had not ended end there: nobody saw how they went on.

        Raises:
            ValueError: arrays are missing, or of other shapes.
        """
        for name, array in self._arrays.items():
            if name not in state or state[name].shape[1:] != array.shape[1:] or len(state[name]) > len(array):
                found = state[name].shape if name in state else None
                raise ValueError(f"state: expected {name} of shape {array.shape} at most, got {found}")
            array[: len(state[name])] = state[name]
        newest = self.added - 1
        self._arrays["ends"] = np.minimum(self._arrays["ends"], newest)
        self._arrays["starts"][:] = newest + 1

    def _draw(self, count: int, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, environments and goals' rows; rows are counted from the first ever."""
        newest = self.added - 1
        oldest = newest + 1 - len(self)
        rows, envs = np.zeros(count, np.int64), np.zeros(count, np.int64)
        open_places = np.arange(count)
        for _ in range(100):
            rows[open_places] = self._generator.integers(oldest, max(newest, oldest + 1), len(open_places))
            envs[open_places] = self._generator.integers(self.num_envs, size=len(open_places))
            ends = np.minimum(self._arrays["ends"][rows % self.length, envs], newest)
            # An episode's last row begins nothing: draw again.
            open_places = np.flatnonzero(ends <= rows)
            if not len(open_places):
                break
        else:
            raise ValueError("no transition to sample: every episode so far has a single row")
        ahead = ends - rows
        uniform = self._generator.random(count)
        # P(offset > k) = gamma^k, cut at the episode's end: the inverse of the distribution that remains.
        log_gamma = np.log(gamma)
        offsets = np.log1p(uniform * np.expm1(ahead * log_gamma)) / log_gamma
        return rows, envs, rows + 1 + np.minimum(offsets.astype(np.int64), ahead - 1)
