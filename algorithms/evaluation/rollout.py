"""Episodes of one task stepped in lockstep, with one batched decision for all of them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from nfkern.algorithms.agents.policy import Policy
from nfkern.algorithms.envs.make import PinnedTask, SuccessTiming, make_environment


@dataclass(frozen=True, order=True)
class Episode:
    """The outcome of one episode.

    Attributes:
        task_id: the task, from 1.
        episode: the number within the task, from 0.
        seed: `PinnedTask.reset(seed=)` with it gives the same start and goal again.
        success: `info["success"]` at the last step, or else `info["is_success"]`; False without either.
        episode_return: sum of rewards, undiscounted.
        length: steps taken.
        score: `info["score"]` at the last step, the share of a task with stages that is done (0 to 1); None without.
    """

    task_id: int
    episode: int
    seed: int
    success: bool
    episode_return: float
    length: int
    score: float | None = None


class EnvironmentPool:
    """Environments of one name, made on demand and kept: a manipulation environment takes 1.5 s to make."""

    def __init__(
        self,
        environment: str | gymnasium.Env[Any, Any],
        *,
        max_episode_steps: int | None = None,
        success_timing: SuccessTiming | None = None,
    ) -> None:
        """Make the first environment.

        Args:
            environment: a name, as `make_environment` takes it; or an environment, which is the only one of the pool
                and left open.
            max_episode_steps: as for `make_environment`.
            success_timing: as for `make_environment`; None for an environment.

        Raises:
            UserError: the name is unknown, or OGBench is not installed.
            ValueError: the actions are not a box of floats.
        """
        self.max_episode_steps = max_episode_steps
        self.success_timing = success_timing
        self._environments: list[PinnedTask] = []
        self._given = not isinstance(environment, str)
        if isinstance(environment, str):
            self.name = environment
        else:
            self.name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
            if max_episode_steps is not None:
                environment = gymnasium.wrappers.TimeLimit(environment, max_episode_steps)
            self._environments = [PinnedTask(environment)]
        first = self.take(1)[0]
        self.tasks, self.task_names = first.tasks, first.task_names
        space = first.action_space
        if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"{self.name} has actions in {space}; only boxes of floats can be evaluated")

    def take(self, count: int) -> list[PinnedTask]:
        """Return the first `count` environments; the same objects at every call."""
        if self._given and count > 1:
            raise ValueError(f"block_size: expected 1 for an environment that is one object, got {count}")
        while len(self._environments) < count:
            with warnings.catch_warnings():
                if self._environments:
                    # The first environment has given these warnings already.
                    warnings.simplefilter("ignore")
                environment = make_environment(
                    self.name, max_episode_steps=self.max_episode_steps, success_timing=self.success_timing
                )
            self._environments.append(environment)
        return self._environments[:count]

    def close(self) -> None:
        """Close every environment that the pool made."""
        for environment in () if self._given else self._environments:
            environment.close()
        self._environments.clear()


def check_fits(pool: EnvironmentPool, sizes: Mapping[str, int], *, goal_conditioned: bool) -> None:
    """Check that a policy can act in an environment, before anything long starts.

    Args:
        pool: of the environment.
        sizes: of the policy: observation_size, action_size, and goal_size where goals are no
            observations.
        goal_conditioned: whether the policy needs goals.

    Raises:
        ValueError: observations, actions or goals are of another shape, or the goals that the policy needs are missing.
    """
    environment = pool.take(1)[0]
    observation, _ = environment.reset(seed=0)
    found = {"observation": observation, "action": np.zeros(environment.action_space.shape or ())}
    if goal_conditioned:
        if environment.goal is None:
            raise ValueError(f"{pool.name} gives no goals (info['goal']), which the policy wants")
        found["goal"] = environment.goal
    for name, value in found.items():
        expected = (sizes.get(f"{name}_size", sizes["observation_size"]),)
        shape = value.shape if isinstance(value, np.ndarray) else type(value).__name__
        if shape != expected:
            raise ValueError(f"{pool.name}: expected {name}s of shape {expected}, as in the data, got {shape}")


def derive_seed(*words: int) -> int:
    """Return a seed below 2^53 (exact in JSON) that depends on every word, in order."""
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(11))


def episode_seed(seed: int, task_id: int, episode: int) -> int:
    """Return the seed of an episode's start and goal: the same for every policy that is evaluated with `seed`."""
    return derive_seed(seed, task_id, episode)


def run_block(
    policy: Policy,
    environments: Sequence[PinnedTask],
    *,
    task_id: int,
    first_episode: int,
    seed: int,
    observe: Callable[[int, PinnedTask, np.ndarray], None] | None = None,
    finished: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Run consecutive episodes of one task, one per environment, to their ends.

    The decision's batch keeps its shape to the end: an episode that is over stays in it with its last observation,
    and only its environment rests. So the outcome depends on the arguments alone.

    Args:
        policy: decides for all episodes at once.
        environments: one for each episode.
        task_id: the task of all of them.
        first_episode: number of the first within its task.
        seed: the evaluation's; starts, goals and the policy's generator follow from it.
        observe: called with (episode, environment, observation) after each reset and step.
        finished: called with each episode when it ends.

    Returns:
        The episodes, in order.

    Raises:
        ValueError: the policy's attributes or actions do not fit the environment.
    """
    numbers = range(first_episode, first_episode + len(environments))
    seeds = [episode_seed(seed, task_id, number) for number in numbers]
    generator = torch.Generator().manual_seed(derive_seed(seed, task_id, first_episode, len(environments)))
    batch = _Batch(policy, environments)
    outcomes: dict[int, Episode] = {}
    returns = [0.0] * len(environments)
    for row, environment in enumerate(environments):
        environment.task_id = task_id
        observation, _ = environment.reset(seed=seeds[row])
        batch.begin(row, observation, environment.goal)
        if observe:
            observe(numbers[row], environment, observation)

    step = 0
    while len(outcomes) < len(environments):
        if step % policy.execute == 0:
            actions = batch.decide(generator)
        for row, environment in enumerate(environments):
            if row in outcomes:
                continue
            observation, reward, terminated, truncated, info = environment.step(actions[row, step % policy.execute])
            batch.append(row, observation)
            returns[row] += reward
            if observe:
                observe(numbers[row], environment, observation)
            if terminated or truncated:
                # gymnasium-robotics, and simulators after it, call it is_success.
                success, score = bool(info.get("success", info.get("is_success", False))), info.get("score")
                outcomes[row] = Episode(
                    *(task_id, numbers[row], seeds[row], success, returns[row], step + 1),
                    score=None if score is None else float(score),
                )
                if finished:
                    finished(outcomes[row])
        step += 1
    return [outcomes[row] for row in range(len(environments))]


class _Batch:
    """The decision's inputs, one row per episode."""

    def __init__(self, policy: Policy, environments: Sequence[PinnedTask]) -> None:
        if policy.history < 1 or not 1 <= policy.execute <= policy.chunk:
            raise ValueError(
                "policy: expected history >= 1 and 1 <= execute <= chunk, "
                f"got history {policy.history}, execute {policy.execute}, chunk {policy.chunk}"
            )
        space = environments[0].action_space
        assert isinstance(space, gymnasium.spaces.Box)
        self.policy = policy
        self.low, self.high = space.low, space.high
        self.shape = (len(environments), policy.chunk, *space.shape)
        self.observations: np.ndarray | None = None
        self.goals: np.ndarray | None = None

    def begin(self, row: int, observation: np.ndarray, goal: np.ndarray | None) -> None:
        if self.observations is None:
            self.observations = _aligned(self.shape[0], self.policy.history, *observation.shape)
        self.observations[row] = observation
        if not self.policy.goal_conditioned:
            return
        if goal is None:
            raise ValueError("policy: it is goal-conditioned, but the environment gives no goal")
        if self.goals is None:
            self.goals = _aligned(self.shape[0], *goal.shape)
        self.goals[row] = goal

    def append(self, row: int, observation: np.ndarray) -> None:
        assert self.observations is not None
        self.observations[row, :-1] = self.observations[row, 1:]
        self.observations[row, -1] = observation

    def decide(self, generator: torch.Generator) -> np.ndarray:
        assert self.observations is not None
        actions = np.asarray(self.policy.act(self.observations, self.goals, generator=generator))
        if actions.shape != self.shape:
            raise ValueError(f"policy: expected actions of shape {self.shape}, got {actions.shape}")
        if not np.isfinite(actions).all():
            raise ValueError("policy: it returned actions that are not finite")
        return np.clip(actions.astype(np.float32, copy=False), self.low, self.high)


def _aligned(*shape: int) -> np.ndarray:
    """Return zeros in torch's memory: numpy's alignment varies, and matrix products may round differently with it."""
    zeros: np.ndarray = torch.zeros(shape).numpy()
    return zeros
