"""Random batches of transitions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .goals import GoalSampling
from .transitions import TransitionDataset


class BatchSampler:
    """Draws batches of transitions with replacement, reproducibly and resumably.

    Nothing ever crosses an episode's border. A history that reaches beyond an episode's start repeats its first
    observation, as an agent does at the start of an episode. An action chunk that reaches beyond an episode's end
    repeats its last valid action, as is usual for chunked policies.

    Args:
        dataset: Where the transitions come from.
        batch_size: Transitions in a batch.
        goals: How goals are drawn; None for no goals.
        history: Observations that one decision sees, the current one included.
        chunk: Actions that one decision returns, the current one included.
        next_observations: Whether batches hold the observations after the transitions.
        next_actions: Whether they hold the actions after the transitions' own.
        actor_goals: How a second goal of each transition is drawn, for a policy that learns for other goals than its
            critics.
        subgoal_steps: How many steps ahead subgoals lie, for policies that choose them; None for no subgoals.
        seed: Seed of the draws, or several numbers (such as a seed and the rank of a process).

    Raises:
        ValueError: If a size is below 1.
    """

    def __init__(
        self,
        dataset: TransitionDataset,
        batch_size: int,
        goals: GoalSampling | None = None,
        history: int = 1,
        chunk: int = 1,
        *,
        next_observations: bool = False,
        next_actions: bool = False,
        actor_goals: GoalSampling | None = None,
        subgoal_steps: int | None = None,
        seed: int | Sequence[int] = 0,
    ) -> None:
        sizes = {"batch_size": batch_size, "history": history, "chunk": chunk, "subgoal_steps": subgoal_steps}
        for argument, value in sizes.items():
            if value is not None and value < 1:
                raise ValueError(f"{argument} must be at least 1, got {value}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.goals = goals
        self.history = history
        self.chunk = chunk
        self.next_observations = next_observations
        self.next_actions = next_actions
        self.actor_goals = actor_goals
        self.subgoal_steps = subgoal_steps
        self._generator = np.random.default_rng(seed)

    def sample(self) -> dict[str, np.ndarray]:
        """Draw a batch.

        Returns:
            Float32 arrays, one row per transition:

            - `observations` (batch, history * observation_size), oldest first;
            - `actions` (batch, chunk * action_size), soonest first;
            - with `next_observations`: `next_observations`, like `observations` one step later;
            - with `next_actions`: `next_actions` (batch, action_size), that of the next row: an episode's last one has
              an action, too;
            - with goals: `goals` (batch, observation_size), `rewards` (batch,) and `masks` (batch,), where a mask is 0
              if the transition starts at its goal;
            - with actor goals: `actor_goals` (batch, observation_size);
            - with subgoals: `subgoals` (batch, observation_size), at most at the episode's end, and with actor goals,
              too, `actor_subgoals`, which do not lie beyond the actor goal if that comes sooner;
            - without goals, if the dataset has rewards: its `rewards` and `masks`.
        """
        dataset = self.dataset
        rows, episodes = dataset.locate(self._generator.integers(len(dataset), size=self.batch_size))
        first_rows, last_rows = dataset.episode_starts[episodes], dataset.episode_ends[episodes]
        batch = {
            "observations": self._observations(rows, first_rows),
            "actions": self._actions(rows, last_rows - 1),
        }
        if self.next_observations:
            batch["next_observations"] = self._observations(rows + 1, first_rows)
        if self.next_actions:
            batch["next_actions"] = dataset.actions.take(rows + 1, axis=0)
        if self.goals is not None:
            goal_rows = self.goals.sample_rows(self._generator, dataset, rows, episodes)
            reached = (goal_rows == rows).astype(np.float32)
            batch["goals"] = dataset.observations.take(goal_rows, axis=0)
            batch["rewards"] = reached - 1.0 if self.goals.negative_rewards else reached
            batch["masks"] = 1.0 - reached
        elif dataset.rewards is not None and dataset.masks is not None:
            batch["rewards"], batch["masks"] = dataset.rewards[rows], dataset.masks[rows]
        ahead = {}
        if self.subgoal_steps is not None:
            ahead["subgoals"] = np.minimum(rows + self.subgoal_steps, last_rows)
        if self.actor_goals is not None:
            ahead["actor_goals"] = self.actor_goals.sample_rows(self._generator, dataset, rows, episodes)
            if self.subgoal_steps is not None:
                ahead["actor_subgoals"] = _not_beyond(ahead["actor_goals"], rows, ahead["subgoals"])
        return batch | {key: dataset.observations.take(each, axis=0) for key, each in ahead.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the draws, which JSON can hold."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the draws exactly where `state_dict` was taken.

        Raises:
            ValueError: If the state is none of this sampler's.
        """
        try:
            self._generator.bit_generator.state = state["generator"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state must come from BatchSampler.state_dict, got {state!r}") from error

    def _observations(self, rows: np.ndarray, first_rows: np.ndarray) -> np.ndarray:
        if self.history > 1:
            ages = np.arange(self.history - 1, -1, -1)
            rows = np.maximum(rows[:, None] - ages, first_rows[:, None])
        return self.dataset.observations.take(rows, axis=0).reshape(self.batch_size, -1)

    def _actions(self, rows: np.ndarray, last_rows: np.ndarray) -> np.ndarray:
        if self.chunk > 1:
            rows = np.minimum(rows[:, None] + np.arange(self.chunk), last_rows[:, None])
        return self.dataset.actions.take(rows, axis=0).reshape(self.batch_size, -1)


def _not_beyond(goal_rows: np.ndarray, rows: np.ndarray, subgoal_rows: np.ndarray) -> np.ndarray:
    """Subgoals, or the goals that lie on the way to them."""
    return np.where((rows < goal_rows) & (goal_rows < subgoal_rows), goal_rows, subgoal_rows)
