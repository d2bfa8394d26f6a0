"""Random batches of transitions, drawn where the data lie: on the device, without a word to the host."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nfkern.errors import UserError

from .goals import GoalSampling
from .transitions import TransitionDataset


class DeviceDataset:
    """A dataset's observations, actions, rewards and episode borders as tensors on a device, for any samplers.

    Args:
        dataset: Where the transitions come from.
        device: Where they shall lie.

    Raises:
        UserError: If the device's memory does not hold them.
    """

    def __init__(self, dataset: TransitionDataset, device: torch.device | str) -> None:
        self.transitions = len(dataset)
        try:
            # Copies, because the arrays may be read-only maps of a file.
            self.observations = torch.tensor(dataset.observations, device=device)
            self.actions = torch.tensor(dataset.actions, device=device)
            known = {"rewards": dataset.rewards, "masks": dataset.masks}
            self.outcomes = {key: torch.tensor(each, device=device) for key, each in known.items() if each is not None}
            self.first_rows = torch.tensor(dataset.episode_starts, device=device)
            self.last_rows = torch.tensor(dataset.episode_ends, device=device)
            self._transitions_until = torch.tensor(np.cumsum(dataset.episode_lengths), device=device)
        except torch.OutOfMemoryError as error:
            raise UserError(f"{dataset.name} does not fit into the memory of {device}: use --no-cuda-graph") from error

    def locate(self, uniform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows and episodes of transitions, each equally likely for numbers uniform in [0, 1), of any shape."""
        transitions = (uniform * self.transitions).long()
        episodes = torch.searchsorted(self._transitions_until, transitions, right=True)
        # Every earlier episode has one row that starts no transition.
        return transitions + episodes, episodes


class DeviceBatchSampler:
    """`BatchSampler` on a device: the same distributions and borders, other random numbers.

    A batch is a function of numbers uniform in [0, 1), so that several seeds draw theirs one by one and share the
    rest. They are float64: 24 bits would favour some of a million transitions over others.

    Args:
        data: The dataset on its device.
        batch_size: Transitions in a batch.
        goals: How goals are drawn; None for no goals.
        history: Observations that one decision sees, the current one included.
        chunk: Actions that one decision returns, the current one included.
        next_observations: Whether batches hold the observations after the transitions.
        next_actions: Whether they hold the actions after the transitions' own.
        actor_goals: How a second goal of each transition is drawn; None for no second goals.
        subgoal_steps: How many steps ahead subgoals lie; None for no subgoals.
        seed: Seed of the draws, or several numbers.

    Attributes:
        generator: Source of the draws, on the device.

    Raises:
        ValueError: If a size is below 1.
    """

    def __init__(
        self,
        data: DeviceDataset,
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
        self.data = data
        self.batch_size = batch_size
        self.goals = goals
        self.next_observations = next_observations
        self.next_actions = next_actions
        self.actor_goals = actor_goals
        self.subgoal_steps = subgoal_steps
        device = data.observations.device
        self.generator = torch.Generator(device).manual_seed(_number(seed))
        self._ages = torch.arange(history - 1, -1, -1, device=device)
        self._delays = torch.arange(chunk, device=device)

    def sample(self) -> dict[str, torch.Tensor]:
        """Draw a batch.

        Returns:
            Float32 tensors on the device, as `BatchSampler.sample` has them.
        """
        return self.batch(self.draw())

    def draw(self) -> torch.Tensor:
        """The numbers that decide a batch, uniform in [0, 1): (1 and 3 for each kind of goals, batch), float64."""
        kinds = sum(each is not None for each in (self.goals, self.actor_goals))
        shape = (1 + 3 * kinds, self.batch_size)
        return torch.rand(shape, generator=self.generator, dtype=torch.float64, device=self.generator.device)

    def batch(self, uniform: torch.Tensor) -> dict[str, torch.Tensor]:
        """The batch that some draws decide: `draw`'s, (*seeds, ...) -> tensors (*seeds, batch, ...) as in `sample`."""
        data = self.data
        of_row, *of_goals = uniform.unbind(-2)
        rows, episodes = data.locate(of_row)
        first_rows, last_rows = data.first_rows[episodes], data.last_rows[episodes]
        coming = torch.minimum(rows.unsqueeze(-1) + self._delays, last_rows.unsqueeze(-1) - 1)
        batch = {"observations": self._observations(rows, first_rows), "actions": data.actions[coming].flatten(-2)}
        if self.next_observations:
            batch["next_observations"] = self._observations(rows + 1, first_rows)
        if self.next_actions:
            batch["next_actions"] = data.actions[rows + 1]
        if self.goals is not None:
            of_goal, of_goals = of_goals[:3], of_goals[3:]
            goal_rows = _goal_rows(self.goals, of_goal, rows, last_rows, data)
            reached = (goal_rows == rows).float()
            batch["goals"] = data.observations[goal_rows]
            batch["rewards"] = reached - 1.0 if self.goals.negative_rewards else reached
            batch["masks"] = 1.0 - reached
        else:
            batch |= {key: each[rows] for key, each in data.outcomes.items()}
        ahead = {}
        if self.subgoal_steps is not None:
            ahead["subgoals"] = torch.minimum(rows + self.subgoal_steps, last_rows)
        if self.actor_goals is not None:
            ahead["actor_goals"] = _goal_rows(self.actor_goals, of_goals, rows, last_rows, data)
            if self.subgoal_steps is not None:
                ahead["actor_subgoals"] = _not_beyond(ahead["actor_goals"], rows, ahead["subgoals"])
        return batch | {key: data.observations[each] for key, each in ahead.items()}

    def _observations(self, rows: torch.Tensor, first_rows: torch.Tensor) -> torch.Tensor:
        past = torch.maximum(rows.unsqueeze(-1) - self._ages, first_rows.unsqueeze(-1))
        return self.data.observations[past].flatten(-2)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the draws, which JSON can hold."""
        state = self.generator.get_state()
        return {"device_generator": self.generator.device.type, "state": bytes(state.tolist()).hex()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the draws exactly where `state_dict` was taken.

        Raises:
            ValueError: If the state is none of this sampler's, or of another kind of device.
        """
        if state.get("device_generator") != self.generator.device.type:
            raise ValueError(
                f"state must come from DeviceBatchSampler.state_dict on {self.generator.device.type}, got {state!r}"
            )
        self.generator.set_state(torch.tensor(list(bytes.fromhex(state["state"])), dtype=torch.uint8))


def _number(seed: int | Sequence[int]) -> int:
    """One 64-bit seed, spread over its range as PyTorch's generators ask for."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


def _goal_rows(
    goals: GoalSampling,
    uniform: Sequence[torch.Tensor],
    rows: torch.Tensor,
    last_rows: torch.Tensor,
    data: DeviceDataset,
) -> torch.Tensor:
    """`GoalSampling.sample_rows` by inversion of the distributions, from three uniform numbers for each row."""
    of_offset, of_kind, of_random = uniform
    goal_rows = rows
    if goals.p_trajectory > 0:
        if goals.gamma is None:
            goal_rows = rows + 1 + (of_offset * (last_rows - rows)).long()
        else:
            # P(offset > k) = gamma^k; with gamma = 0 the logarithm is infinite and every offset 1.
            log_gamma = math.log(goals.gamma) if goals.gamma else -math.inf
            steps = torch.log1p(-of_offset) / log_gamma
            goal_rows = torch.minimum(rows + 1 + steps.long(), last_rows)
    if goals.p_current == 1 or goals.p_trajectory == 1:
        return goal_rows
    random_rows, _ = data.locate(of_random)
    goal_rows = torch.where(of_kind < goals.p_random, random_rows, goal_rows)
    return torch.where(of_kind >= 1.0 - goals.p_current, rows, goal_rows)


def _not_beyond(goal_rows: torch.Tensor, rows: torch.Tensor, subgoal_rows: torch.Tensor) -> torch.Tensor:
    """Subgoals, or the goals that lie on the way to them."""
    return torch.where((rows < goal_rows) & (goal_rows < subgoal_rows), goal_rows, subgoal_rows)
