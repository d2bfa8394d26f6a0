"""A trained policy in a control loop of one's own: an observation in, the next action out."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.policy import Policy
from nfkern.algorithms.agents.registry import load_agent, load_policy
from nfkern.algorithms.runs.checkpoint import Checkpoint
from nfkern.algorithms.runs.run import Run
from nfkern.errors import UserError

if TYPE_CHECKING:
    from nfkern.algorithms.exporting import Description, Format


class Actor:
    """A policy with its memory: the observations that a decision sees, and the actions that it has planned.

    An action is a sample of the policy, denoised where the run's settings say so (`denoise`), so that two calls differ;
    a Gaussian policy alone acts with its mean. To repeat actions, make `generator = torch.Generator().manual_seed(0)`
    and give it to each call of `act`.

    Args:
        policy: from observations (n, history, observation_size) to actions (n, chunk, action_size).
        name: of what acts, for `repr`, such as "nf_bc, step 5000, observations (4,), actions (2,)".
        folder: of the checkpoint that the policy was loaded from, which `export` reads.
        sizes: observation_size, action_size and, where goals are no observations, goal_size; empty if not known.

    Attributes:
        policy: as given.
        sizes: as given.
    """

    def __init__(
        self, policy: Policy, name: str = "", folder: Path | None = None, sizes: Mapping[str, int] | None = None
    ) -> None:
        self.policy, self.sizes, self._name, self._folder = policy, dict(sizes or {}), name, folder
        self.reset()

    def __repr__(self) -> str:
        """Return what acts, and how it plans: algorithm, step and sizes where a run was loaded."""
        policy = self.policy
        plan = f"history {policy.history}, {policy.execute} of {policy.chunk} actions a decision"
        return f"Actor({self._name or type(policy).__name__}, {plan})"

    def reset(self) -> None:
        """Forget all observations and plans: call it when an episode begins."""
        self._seen: np.ndarray | None = None
        self._goals: np.ndarray | None = None
        self._planned = np.empty((0, 0, 0), np.float32)
        self._executed = 0

    def act(
        self, observation: np.ndarray, goal: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Return the next action, in the data's units and within the bounds of the data.

        Until a reset the memory holds as many rows as the first call. Where a decision plans several actions, a new
        goal counts from the next decision on.

        Args:
            observation: (observation_size,), or (n, observation_size) for n loops at once.
            goal: of the same shape, where the policy takes goals.
            generator: a CPU generator, the only source of randomness; PyTorch's own if None.

        Returns:
            (action_size,) or (n, action_size), float32.

        Raises:
            ValueError: a shape that does not fit, a goal that is missing or unwanted, or a number that is not finite.
        """
        seen, goals = self._given(observation, goal)
        if self._due:
            self._planned, self._executed = self.policy.act(seen, goals, generator), 0
        # Only now: what the policy refuses is not remembered.
        self._seen, self._goals = seen, goals
        action: np.ndarray = self._planned[:, self._executed]
        self._executed += 1
        return action.copy() if np.ndim(observation) == 2 else action[0].copy()

    def plan(
        self, observation: np.ndarray, goal: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Decide now, whatever was planned before, and return all actions of the decision; `act` then decides anew.

        Arguments and errors as of `act`.

        Returns:
            (chunk, action_size) or (n, chunk, action_size), float32.
        """
        seen, goals = self._given(observation, goal)
        planned = self.policy.act(seen, goals, generator)
        self._seen, self._goals, self._planned = seen, goals, np.empty((0, 0, 0), np.float32)
        return planned if np.ndim(observation) == 2 else planned[0]

    def _given(self, observation: np.ndarray, goal: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what a decision sees: observations (n, history, observation_size), and goals (n, goal_size)."""
        rows = np.atleast_2d(np.asarray(observation, np.float32))
        if rows.ndim > 2:
            raise ValueError(f"observation: expected one or two dimensions, got shape {rows.shape}")
        if (goal is None) == self.policy.goal_conditioned:
            wanted = "one" if self.policy.goal_conditioned else "None, this policy takes none"
            raise ValueError(f"goal: expected {wanted}, got {'None' if goal is None else 'one'}")
        goals = None if goal is None else np.atleast_2d(np.asarray(goal, np.float32))
        if goals is not None and goals.shape[:-1] != rows.shape[:-1]:
            raise ValueError(f"goal: expected {len(rows)} as there are observations, got shape {goals.shape}")
        if self._seen is None:
            seen = np.repeat(rows[:, None], self.policy.history, 1)
        elif rows.shape != (first := (len(self._seen), self._seen.shape[2])):
            raise ValueError(f"observation: expected shape {first} as since the last reset, got {rows.shape}")
        else:
            seen = np.concatenate([self._seen[:, 1:], rows[:, None]], 1)
        return seen, goals

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, None]:
        """Return the next action, and no state, as a model of Stable-Baselines3 does; for policies without goals.

        Args:
            observation: as in `act`.
            state: unused: the memory is kept here.
            episode_start: true where an episode begins; where all rows begin one, the memory is emptied.
            deterministic: must be False where the policy draws its actions.

        Raises:
            ValueError: as of `act`; episodes of some rows alone begin; or a deterministic action, which a policy that
                samples does not have.
        """
        if deterministic and self._samples:
            raise ValueError("deterministic: expected False, for this policy samples its actions")
        started = np.atleast_1d(np.asarray(False if episode_start is None else episode_start))
        if started.all():
            self.reset()
        elif started.any() and (self.policy.history > 1 or self.policy.execute > 1):
            raise ValueError("episode_start: expected all rows to begin together, for this policy remembers")
        return self.act(observation), None

    def select_action(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the next actions (n, action_size), as a policy of LeRobot does.

        Args:
            batch: "observation.state" (n, observation_size), and "goal" (n, goal_size) where the policy takes goals;
                other entries are not looked at.

        Raises:
            ValueError: as of `act`, or "observation.state" is missing.
        """
        return self._for_batch(self.act, batch)

    def predict_action_chunk(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return all actions of a new decision (n, chunk, action_size), as a policy of LeRobot does: `plan`."""
        return self._for_batch(self.plan, batch)

    @staticmethod
    def _for_batch(act: Callable[..., np.ndarray], batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if (observations := batch.get("observation.state")) is None:
            raise ValueError(f"batch: expected an entry 'observation.state', got {', '.join(batch) or 'none'}")
        rows, goals = observations.detach().cpu().numpy(), batch.get("goal")
        found = act(rows, None if goals is None else goals.detach().cpu().numpy())
        return torch.from_numpy(found).to(observations.device)

    @cached_property
    def _samples(self) -> bool:
        """Whether an action is drawn, so that it has no single value."""
        from nfkern.algorithms.exporting import describe

        try:
            return not isinstance(self.policy, Agent) or describe(self.policy).noise_size > 0
        except UserError:
            return True

    def export(self, path: str | Path, format: "Format | None" = None) -> "Description":
        """Write the policy for other runtimes, once what was written agrees with it; see `nfkern export`.

        Args:
            path: file to write or replace.
            format: "onnx", "pt2" (`torch.export.load`) or "aoti"; by default by the suffix, .onnx or .pt2.

        Returns:
            What the file's inputs and output are.

        Raises:
            UserError: the policy cannot be exported, a package is missing, or what was written does not agree with it.
            ValueError: a policy that was not loaded from a run.
        """
        from nfkern.algorithms.exporting import export, format_of

        if self._folder is None:
            raise ValueError("export: expected a policy that `nfkern.load` or `nfkern.train` returned")
        return export(load_agent(self._folder), Path(path), format_of(Path(path), format))

    def prefetch(self) -> None:
        """Bring weights and code into the caches: call it while waiting for the next observation.

        After a pause most of an action's time goes by until they have come from memory. This decides once on what was
        seen last, draws from no generator of the caller, and forgets the actions.
        """
        if self._seen is not None and self._due:
            self.policy.act(self._seen, self._goals, torch.Generator())

    @property
    def _due(self) -> bool:
        """Whether the next action needs a decision."""
        return not len(self._planned) or self._executed >= self.policy.execute


def load(path: str | Path, step: int | None = None) -> Actor:
    """Load a trained policy, on the CPU and frozen where it is a flow.

    Args:
        path: a run's folder, or that of one of its checkpoints.
        step: of the run's checkpoint; the newest if None.

    Raises:
        UserError: the folder is no run, or has no such checkpoint.
        ValueError: the checkpoint is damaged, or of a newer version.
    """
    folder = checkpoint_folder(path, step)
    policy = load_policy(folder)
    checkpoint = Checkpoint(folder)
    described = _described(checkpoint, policy.goal_conditioned)
    return Actor(policy, described, folder, checkpoint.description["sizes"])


def _described(checkpoint: Checkpoint, goals: bool) -> str:
    """Return a checkpoint's algorithm, step and sizes in words."""
    description = checkpoint.description
    sizes = description["sizes"]
    # A folder may have been copied under another name.
    parts = [description["algorithm"], *([f"step {checkpoint.step}"] if checkpoint.path.name.isdigit() else [])]
    parts.append(f"observations ({sizes['observation_size']},)")
    if goals:
        parts.append(f"goals ({sizes.get('goal_size', sizes['observation_size'])},)")
    return ", ".join([*parts, f"actions ({sizes['action_size']},)"])


def checkpoint_folder(path: str | Path, step: int | None = None) -> Path:
    """Return the folder of a run's checkpoint; arguments and errors as of `load`."""
    folder = Path(path)
    if step is None and (folder / "agent.safetensors").is_file():
        return folder
    run = Run(folder)
    checkpoint = run.latest_checkpoint()
    if step is not None:
        found = {each.step: each for each in run.checkpoints()}
        if step not in found:
            raise UserError(f"{folder} has no checkpoint {step}; it has {', '.join(map(str, found))}")
        checkpoint = found[step]
    return checkpoint.path
