"""The base of all agents: sizes, normalisers, optimiser, averaging and acting; and the decorator that names one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from nfkern.algorithms.agents.config import AgentConfig, Preset
from nfkern.algorithms.agents.optimization import (
    Info,
    LossAndInfo,
    Noise,
    ParameterGroups,
    Tensors,
    gradient_step,
    move_average,
    optimization,
)
from nfkern.algorithms.agents.policy import FlowPolicy, Policy, check_inputs
from nfkern.algorithms.data import DatasetStatistics
from nfkern.algorithms.data.transitions import ColumnStatistics
from nfkern.flows.flow import Flow
from nfkern.flows.normalizer import Mode, Normalizer

NO_GENERATOR: Any = object()

Batch = Mapping[str, np.ndarray] | Mapping[str, torch.Tensor]


class Agent(nn.Module, ABC):
    """An agent that learns from batches and acts on observations, and goals if it is goal-conditioned.

    `create` builds one. A subclass defines its networks, its loss and how it acts, and is named by `register`.

    Attributes:
        name: its name in commands and on disk.
        summary: its line in `nfkern --help`.
        presets: settings by name.
        ema: moving average of the networks that `_averaged` returns, or None.
        history: number of observations that a decision sees.
        chunk: number of actions that a decision returns.
        execute: number of actions executed per decision.
        goal_conditioned: whether `loss` and `act` take goals.
        goals_are_observations: whether a goal has an observation's size.
        batch_keys: the entries of a batch that the loss needs, besides goals.
        capturable: whether a CUDA graph can capture a gradient step, because it never waits for the device.
        bounded: whether normalised actions have to lie in [-1, 1].
        action_low: (action_size,), smallest actions of the data, in their units; `act` clips to them. -1, OGBench's
            bound, without statistics of the data.
        action_high: (action_size,), largest actions of the data, likewise.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    presets: ClassVar[Mapping[str, Preset]]
    config_class: ClassVar[type[AgentConfig]]
    goal_conditioned: ClassVar[bool] = False
    goals_are_observations: ClassVar[bool] = True
    batch_keys: ClassVar[tuple[str, ...]] = ("observations", "actions")
    capturable: ClassVar[bool] = True
    bounded: ClassVar[bool] = False
    action_low: torch.Tensor
    action_high: torch.Tensor
    _given_noise: torch.Tensor | None = None

    def __init__(
        self, config: AgentConfig, observation_size: int, action_size: int, goal_size: int | None = None
    ) -> None:
        """Make the networks for one observation's size, one action's, and one goal's if goals are no observations."""
        super().__init__()
        self.config: Any = config
        self.sizes = {"observation_size": observation_size, "action_size": action_size}
        if goal_size is not None:
            self.sizes["goal_size"] = goal_size
        batches = config.batches()
        self.history, self.chunk, self.execute = batches["history"], batches["chunk"], 1
        self.observation_normalizer = Normalizer(observation_size, config.observation_normalization)
        mode = config.action_normalization
        self.action_normalizer = Normalizer(action_size, "none" if mode == "auto" else mode)
        self.register_buffer("action_low", -torch.ones(action_size))
        self.register_buffer("action_high", torch.ones(action_size))
        inputs = observation_size * self.history
        if self.goal_conditioned:
            inputs += goal_size or observation_size
        self.networks = self._build(inputs, action_size * self.chunk)
        self.ema = AveragedModel(self._averaged()) if config.average_decay() else None
        self.optimizer, self.scheduler = optimization(self._parameter_groups(), config)

    @classmethod
    def create(cls, config: AgentConfig, example_batch: Batch, statistics: DatasetStatistics | None = None) -> Self:
        """Return an agent with sizes from a batch, and normalisers and bounds of actions from the dataset's statistics.

        Args:
            config: its settings.
            example_batch: `observations` (batch, history * observation_size), `actions` (batch, chunk * action_size),
                and `goals` (batch, goal_size) if goals are no observations.
            statistics: those of the training data; may be left out if nothing is normalised.

        Raises:
            ValueError: statistics are missing, the batch does not fit the settings, or the agent is `bounded` and
                actions beyond [-1, 1] are not normalised.
        """
        sizes, batches = {}, config.batches()
        for key, repeats in (("observations", batches["history"]), ("actions", batches["chunk"])):
            width = example_batch[key].shape[-1]
            if width % repeats:
                raise ValueError(f"example_batch: {key} has {width} columns, no multiple of {repeats}")
            sizes[key] = width // repeats
        goals = () if cls.goals_are_observations else (example_batch["goals"].shape[-1],)
        agent = cls(config, sizes["observations"], sizes["actions"], *goals)
        for normalizer, mode, key in (
            (agent.observation_normalizer, config.observation_normalization, "observations"),
            (agent.action_normalizer, agent._adopt_bounds(statistics), "actions"),
        ):
            if mode == "none":
                continue
            if statistics is None:
                raise ValueError(f"statistics: expected those of the dataset for {mode} {key}, got None")
            fitted = _normalizer(mode, getattr(statistics, key))
            normalizer.load_state_dict(fitted.state_dict())
        return agent

    def _adopt_bounds(self, statistics: DatasetStatistics | None) -> Mode:
        """Store the bounds of the data's actions if they are known; return how to normalise actions."""
        mode = self.config.action_normalization
        if statistics is None:
            return "none" if mode == "auto" else mode
        actions = statistics.actions
        for bound, found in ((self.action_low, actions.min), (self.action_high, actions.max)):
            bound.copy_(torch.from_numpy(np.array(found)))
        low, high = float(actions.min.min()), float(actions.max.max())
        inside = low >= -1 and high <= 1
        if mode == "none" and self.bounded and not inside:
            raise ValueError(
                "action_normalization: expected actions in [-1, 1] without normalisation (none), got actions from "
                f"{low:.6g} to {high:.6g}; use auto"
            )
        return ("none" if inside else "min_max") if mode == "auto" else mode

    @abstractmethod
    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        """Return the trained networks, from the conditioning (batch, inputs) to actions (batch, outputs)."""

    def _averaged(self) -> nn.Module:
        """Return the networks to keep a moving average of, under their names in `networks`."""
        return self.networks

    def _parameter_groups(self) -> ParameterGroups:
        """Return the optimiser's parameters: all weights alike, or groups with settings of their own."""
        return self.networks.parameters()

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        """Return random numbers for the loss of a batch with actions (rows, width); options are torch.randn's."""
        return ()

    @abstractmethod
    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Return normalised actions (batch, chunk * action_size) for acting."""

    def tensors(self, batch: Batch) -> Tensors:
        """Return the entries of a batch that the loss needs, float32, on the agent's device."""
        keys = (*self.batch_keys, "goals") if self.goal_conditioned else self.batch_keys
        return {key: self._tensor(batch[key]) for key in keys}

    def draw(self, batch: Tensors, generator: torch.Generator | None = None) -> Noise:
        """Return random numbers for the loss of a batch or of several stacked ones, from a device's generator."""
        actions = batch["actions"]
        return self._draw(*actions.shape[-2:], generator=generator, dtype=actions.dtype, device=actions.device)

    @abstractmethod
    def forward(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """Return the loss, a function of a batch's `tensors`, the noise of `draw` and the weights alone, and its parts.

        The parts are detached and have prefixed names, such as "actor/loss", which all agents have.
        """

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> LossAndInfo:
        """Return the loss of a batch, and its parts under prefixed names.

        Args:
            batch: `observations` (batch, history * observation_size), `actions` (batch, chunk * action_size), the rest
                of `batch_keys`, and `goals` (batch, observation_size) for a goal-conditioned agent; arrays or tensors.
            generator: source of the loss's noise, on the agent's device; the global one if None.
        """
        loss, info = self(*self.inputs(batch, generator))
        return loss, info

    def inputs(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensors, Noise]:
        """Return a batch's `tensors` and the noise that `draw` gives for it."""
        tensors = self.tensors(batch)
        return tensors, self.draw(tensors, generator)

    def update(self, batch: Batch, generator: torch.Generator | None = None) -> Info:
        """Make one gradient step on a batch, with the arguments of `loss`; return the parts of the loss."""
        info = gradient_step(self, *self.inputs(batch, generator))
        self.scheduler.step()
        return info

    def average(self) -> None:
        """Move the average of the weights, if the agent keeps one, towards the weights."""
        if self.ema is not None:
            first = self.scheduler.last_epoch == 0
            averages, values = self.ema.module.parameters(), self._averaged().parameters()
            move_average(averages, values, self.config.average_decay(), first)
            self.ema.n_averaged += 1

    @torch.inference_mode()
    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Return actions for a batch of observations.

        Args:
            observations: (n, history, observation_size), oldest first.
            goals: (n, observation_size) for a goal-conditioned agent.
            generator: a CPU generator; the global one if None.

        Returns:
            Actions (n, chunk, action_size), float32, in the data's units and within the bounds of the data.

        Raises:
            ValueError: a shape does not fit, or goals are missing or unwanted.
        """
        conditioning = self._checked_conditioning(observations, goals)
        return self._in_units(self._sample(self._acting(), conditioning, generator)).cpu().numpy()

    def decide(self, observations: torch.Tensor, goals: torch.Tensor | None, noise: torch.Tensor) -> torch.Tensor:
        """Return the actions of `act` as a function of tensors alone, for exporters.

        Args:
            observations: (n, history, observation_size).
            goals: (n, goal_size) for a goal-conditioned agent, else None.
            noise: (n, chunk * action_size), standard normal; agents that act without noise ignore it.

        Returns:
            (n, chunk, action_size), in the data's units and within the bounds of the data.

        Raises:
            TypeError: acting draws other random numbers than one noise for each action.
        """
        self._given_noise = noise
        try:
            # Whatever draws by itself fails for this generator.
            actions = self._sample(self._acting(), self._conditioning(observations, goals), NO_GENERATOR)
        except AttributeError as error:
            raise TypeError(f"generator: {error}") from None
        finally:
            self._given_noise = None
        return self._in_units(actions)

    def _in_units(self, actions: torch.Tensor) -> torch.Tensor:
        """Return normalised actions (n, chunk * action_size) in the data's units, (n, chunk, action_size), clipped."""
        found = self.action_normalizer.inverse(actions.unflatten(1, (self.chunk, -1)))
        return found.clamp(self.action_low, self.action_high)

    def _checked_conditioning(self, observations: np.ndarray, goals: np.ndarray | None) -> torch.Tensor:
        """Check the arguments of `act`, and return their `_conditioning`."""
        check_inputs(observations, goals, (self.history, self.sizes["observation_size"]), self.goal_conditioned)
        return self._conditioning(self._tensor(observations), None if goals is None else self._tensor(goals))

    def freeze(self) -> Policy:
        """Return a policy that acts as this agent does now, faster where the agent has a flow.

        Its actions are those of `act` up to rounding. A flow acts on the CPU, wherever it was trained. An agent without
        a flow is returned as it is.
        """
        return self

    def _frozen(self, flow: Flow, encoder: nn.Module, sigma: float) -> FlowPolicy:
        """Return a flow behind its encoder, on the CPU; `sigma`, in normalised units, is that of the denoising step."""
        return FlowPolicy(
            flow.freeze(encoder=encoder).cpu(),
            sigma,
            observations=self.observation_normalizer,
            actions=self.action_normalizer,
            bounds=(self.action_low, self.action_high),
            history=self.history,
            chunk=self.chunk,
            execute=self.execute,
            goal_conditioned=self.goal_conditioned,
        )

    def _clip(self, actions: torch.Tensor) -> torch.Tensor:
        """Clip normalised actions (n, action_size) to the bounds of the data, as `act` does."""
        return actions.clamp(self.action_normalizer(self.action_low), self.action_normalizer(self.action_high))

    def _acting(self) -> nn.ModuleDict:
        """Return the networks that act."""
        return self.networks

    def _conditioning(self, observations: torch.Tensor, goals: torch.Tensor | None) -> torch.Tensor:
        """Return the normalised input (n, inputs) of the networks.

        Args:
            observations: (n, history, observation_size).
            goals: (n, observation_size), or None.
        """
        parts = [self.observation_normalizer(observations).flatten(1)]
        if goals is not None:
            parts.append(self.observation_normalizer(goals))
        return torch.cat(parts, 1)

    def _tensor(self, array: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(array, dtype=torch.float32).to(self.observation_normalizer.center.device)

    def _noise(self, rows: int, generator: torch.Generator | None) -> torch.Tensor:
        """Return standard normal noise (rows, chunk * action_size), drawn on the CPU so that devices agree."""
        if self._given_noise is not None:
            if self._given_noise.shape[0] != rows:
                raise TypeError(f"noise: expected {rows} rows, several candidates for each action")
            return self._given_noise
        noise = torch.randn(rows, self.chunk * self.sizes["action_size"], generator=generator)
        return noise.to(self.observation_normalizer.center.device)


def _normalizer(mode: Mode, statistics: ColumnStatistics) -> Normalizer:
    columns = (statistics.mean, statistics.std, statistics.min, statistics.max)
    return Normalizer.from_statistics(mode, *(torch.from_numpy(np.array(column)) for column in columns))


REGISTERED: dict[str, type[Agent]] = {}
"""The agents whose files have been imported; `registry.AGENTS` has all."""
AgentClass = TypeVar("AgentClass", bound=Agent)


def register(
    name: str, *, summary: str, presets: Mapping[str, Preset]
) -> Callable[[type[AgentClass]], type[AgentClass]]:
    """Return a decorator that names an agent: `nfkern train NAME` and everything else follows from it.

    Args:
        name: its name in commands and on disk.
        summary: its line in `nfkern --help`. It and the name must be plain strings: `listing` reads them from the file.
        presets: settings by name, such as those of a dataset, each with its source.

    Raises:
        ValueError: another agent has the name.
    """

    def named(agent: type[AgentClass]) -> type[AgentClass]:
        if name in REGISTERED:
            raise ValueError(f"name: expected one that no agent has, got {name!r}, the name of {REGISTERED[name]}")
        agent.name, agent.summary, agent.presets = name, summary, presets
        REGISTERED[name] = agent
        return agent

    return named
