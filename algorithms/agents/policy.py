"""Policies: what the evaluator needs of an agent, and a flow frozen for acting behind its normalisers."""

from typing import Protocol

import numpy as np
import torch

from nfkern.acting.units import Units
from nfkern.flows.flow import ActingFlow
from nfkern.flows.normalizer import Normalizer


class Policy(Protocol):
    """The interface that the evaluator needs of an agent; plain attributes will do."""

    @property
    def history(self) -> int:
        """The number of observations that a decision sees, the current one included."""

    @property
    def chunk(self) -> int:
        """The number of actions that one decision returns."""

    @property
    def execute(self) -> int:
        """The number of these that are executed before the next decision, 1 to `chunk`."""

    @property
    def goal_conditioned(self) -> bool:
        """Whether `act` needs goals."""

    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Decide for a batch.

        Args:
            observations: (n, history, observation_size) float32, oldest first.
            goals: (n, goal_size) float32, or None for a policy that is not goal-conditioned.
            generator: a CPU generator, the only source of randomness to draw from.

        Returns:
            Actions (n, chunk, action_size).
        """
        ...


class FlowPolicy:
    """A flow policy frozen for acting: normalisers, encoder, flow, denoising and clipping, numpy to numpy.

    On a CPU, encoder, flow and denoising are one call of native code where `ActingFlow.act` has one.

    Args:
        flow: frozen with its encoder, from normalised observations and goals to normalised actions.
        sigma: standard deviation of the noise that one denoising step removes; 0 for plain samples.
        observations: normaliser of observations and goals.
        actions: normaliser of actions.
        bounds: smallest and largest actions, each (action_size,), in the data's units.
        history, chunk, execute, goal_conditioned: as in `Policy`.
    """

    def __init__(
        self,
        flow: ActingFlow,
        sigma: float,
        *,
        observations: Normalizer,
        actions: Normalizer,
        bounds: tuple[torch.Tensor, torch.Tensor],
        history: int,
        chunk: int,
        execute: int,
        goal_conditioned: bool,
    ) -> None:
        self.flow, self.sigma = flow, sigma
        self.history, self.chunk, self.execute, self.goal_conditioned = history, chunk, execute, goal_conditioned
        self._observed = observations.center.numel()
        seen = history + goal_conditioned
        self.units = Units(
            *(tensor.cpu().repeat(seen).numpy() for tensor in (observations.center, observations.scale)),
            *(tensor.cpu().repeat(chunk).numpy() for tensor in (actions.center, actions.scale, *bounds)),
        )

    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Return actions (n, chunk, action_size) for observations and goals, as `Agent.act` does.

        Raises:
            ValueError: a shape does not fit, goals are missing or unwanted, or a number is not finite.
        """
        check_inputs(observations, goals, (self.history, self._observed), self.goal_conditioned)
        seen = observations.reshape(len(observations), -1)
        if goals is not None:
            seen = np.concatenate([seen, goals], 1)
        actions = self.flow.act(seen, self.sigma, generator=generator, units=self.units)
        return actions.reshape(len(observations), self.chunk, -1)

    def decide(self, observations: torch.Tensor, goals: torch.Tensor | None, noise: torch.Tensor) -> torch.Tensor:
        """Return the actions of `act` as a function of tensors alone; as `Agent.decide`."""
        seen = observations.flatten(1) if goals is None else torch.cat([observations.flatten(1), goals], 1)
        center, scale, action_center, action_scale, low, high = (torch.from_numpy(part) for part in self.units.parts)
        seen, noise = ((seen - center) / scale).to(noise), noise.unflatten(1, self.flow.event_shape)
        if self.sigma:
            actions = self.flow.sample_denoised(self.sigma, (), seen, noise=noise)
        else:
            actions = self.flow.sample((), seen, noise=noise)
        found = (actions.flatten(1) * action_scale + action_center).clamp(low, high)
        return found.reshape(found.shape[0], self.chunk, -1)


def check_inputs(
    observations: np.ndarray, goals: np.ndarray | None, sizes: tuple[int, int], goal_conditioned: bool
) -> None:
    """Check what a policy is to act on: observations (n, *sizes), and goals if it takes them.

    Raises:
        ValueError: a shape does not fit, or goals are missing or unwanted.
    """
    expected = (len(observations), *sizes)
    if observations.shape != expected:
        raise ValueError(f"observations: expected shape {expected}, got {observations.shape}")
    if (goals is None) == goal_conditioned:
        raise ValueError(f"goals: expected {'an array' if goal_conditioned else 'None'}, got {type(goals)}")
