"""What every agent shares: data in, optimiser, schedule, averaging, and acting."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

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
from nfkern.algorithms.data import DatasetStatistics, GoalSampling
from nfkern.algorithms.data.transitions import ColumnStatistics
from nfkern.flows.normalizer import Mode, Normalizer

Batch = Mapping[str, np.ndarray] | Mapping[str, torch.Tensor]
ActionMode = Literal["auto", "standard", "min_max", "none"]


@dataclass(frozen=True)
class AgentConfig:
    """Settings shared by all agents."""

    steps: int = 1_000_000
    """Gradient steps; the learning-rate schedule spans them."""
    batch_size: int = 256
    """Transitions per step."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "constant"] = "constant"
    """After warm-up: cosine decay to final_learning_rate, or constant."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    final_learning_rate: float = 1e-6
    """Where cosine decay ends."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    observation_normalization: Mode = "standard"
    """How observations and goals are normalised; the paper feeds them raw ("none")."""
    action_normalization: ActionMode = "auto"
    """How actions are normalised; auto: "none" if all lie in [-1, 1], as OGBench's do, else "min_max"."""

    def goal_sampling(self) -> GoalSampling | None:
        """How goals are drawn; None for an agent without goals."""
        return None

    def actor_goal_sampling(self) -> GoalSampling | None:
        """How second goals are drawn, for a policy that learns for other goals than its critics; None for no others."""
        return None

    def batches(self) -> dict[str, Any]:
        """What the agent's batches are: arguments of `BatchSampler` and `DeviceBatchSampler`."""
        goals = {"goals": self.goal_sampling(), "actor_goals": self.actor_goal_sampling()}
        return goals | {"batch_size": self.batch_size, "history": 1, "chunk": 1}

    def average_decay(self) -> float:
        """Decay of the moving average that the agent keeps of its weights, or of some; 0 for none."""
        return 0.0

    def _least(self) -> dict[str, float]:
        """The least values of settings."""
        return {"steps": 1, "batch_size": 1, "warmup_steps": 0, "weight_decay": 0}

    def __post_init__(self) -> None:
        """Check the settings that belong together."""
        for name, minimum in self._least().items():
            if not getattr(self, name) >= minimum:
                raise ValueError(f"{name}: expected at least {minimum}, got {getattr(self, name)}")
        self.goal_sampling()
        self.actor_goal_sampling()
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a number > 0, got {self.learning_rate}")


class Agent(nn.Module, ABC):
    """An agent that learns from batches and acts on observations, and goals if it is goal-conditioned.

    Build one with `create`. A subclass says what its networks are, its loss, and how it acts.

    Attributes:
        ema: the moving average of `_averaged`, or None.
        history: observations that a decision sees.
        chunk: actions that a decision returns.
        execute: actions executed per decision.
        goal_conditioned: whether `loss` and `act` want goals.
        goals_are_observations: whether goals are of an observation's size.
        batch_keys: what the loss needs of a batch besides goals.
        capturable: whether a gradient step may be captured in a CUDA graph: it never waits for the device.
        bounded: whether normalised actions have to lie in [-1, 1].
        action_low: (action_size,), the least actions of the data, in their units; `act` returns none below. Without
            statistics of the data -1, as OGBench has it.
        action_high: (action_size,), the greatest ones, likewise.
    """

    name: ClassVar[str]
    config_class: ClassVar[type[AgentConfig]]
    goal_conditioned: ClassVar[bool] = False
    goals_are_observations: ClassVar[bool] = True
    batch_keys: ClassVar[tuple[str, ...]] = ("observations", "actions")
    capturable: ClassVar[bool] = True
    bounded: ClassVar[bool] = False
    action_low: torch.Tensor
    action_high: torch.Tensor

    def __init__(
        self, config: AgentConfig, observation_size: int, action_size: int, goal_size: int | None = None
    ) -> None:
        """Make the networks; sizes are of one observation, one action, and one goal where goals are no observations."""
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
        """An agent whose sizes come from a batch, and normalisers and actions' bounds from the dataset's statistics.

        Args:
            config: its settings.
            example_batch: `observations` (batch, history * observation_size), `actions` (batch, chunk * action_size),
                and `goals` (batch, goal_size) where goals are no observations.
            statistics: of the training data; may be left out if nothing is normalised.

        Raises:
            ValueError: statistics are missing, the batch does not fit the settings, or actions beyond [-1, 1] stay as
                they are although the agent is `bounded`.
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
        """Keep the bounds of the data's actions, where these are known; how they are to be normalised."""
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
                "action_normalization: expected actions in [-1, 1] where they stay as they are (none), got some from "
                f"{low:.6g} to {high:.6g}: leave it at auto"
            )
        return ("none" if inside else "min_max") if mode == "auto" else mode

    @abstractmethod
    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        """The trained networks, from the conditioning (batch, inputs) to actions (batch, outputs)."""

    def _averaged(self) -> nn.Module:
        """The networks of which a moving average is kept, under the names that they have in `networks`."""
        return self.networks

    def _parameter_groups(self) -> ParameterGroups:
        """What the optimiser moves: all weights alike, or groups with settings of their own."""
        return self.networks.parameters()

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        """The random numbers of the loss of a batch: actions are (rows, width), options are torch.randn's."""
        return ()

    @abstractmethod
    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        """Normalised actions (batch, chunk * action_size) for acting."""

    def tensors(self, batch: Batch) -> Tensors:
        """The parts of a batch that the loss needs, float32, on the agent's device."""
        keys = (*self.batch_keys, "goals") if self.goal_conditioned else self.batch_keys
        return {key: self._tensor(batch[key]) for key in keys}

    def draw(self, batch: Tensors, generator: torch.Generator | None = None) -> Noise:
        """The random numbers of the loss of a batch (or of one of several stacked ones), from a device's generator."""
        actions = batch["actions"]
        return self._draw(*actions.shape[-2:], generator=generator, dtype=actions.dtype, device=actions.device)

    @abstractmethod
    def forward(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """The loss given a batch's `tensors` and what `draw` drew: a function of them and the weights alone.

        Its parts have a prefix each, and are detached; "actor/loss" is one of them.
        """

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> LossAndInfo:
        """The loss of a batch, and its parts under prefixed names.

        Args:
            batch: `observations` (batch, history * observation_size), `actions` (batch, chunk * action_size), the rest
                of `batch_keys`, and `goals` (batch, observation_size) for a goal-conditioned agent; arrays or tensors.
            generator: of the agent's device, for the loss's own randomness; the global one if None.
        """
        loss, info = self(*self.inputs(batch, generator))
        return loss, info

    def inputs(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensors, Noise]:
        """A batch's `tensors`, and what to `draw` for it."""
        tensors = self.tensors(batch)
        return tensors, self.draw(tensors, generator)

    def update(self, batch: Batch, generator: torch.Generator | None = None) -> Info:
        """One gradient step; returns what `loss` said, arguments of `loss`."""
        info = gradient_step(self, *self.inputs(batch, generator))
        self.scheduler.step()
        return info

    def average(self) -> None:
        """Move the average of the weights, if there is one, towards the weights."""
        if self.ema is not None:
            first = self.scheduler.last_epoch == 0
            averages, values = self.ema.module.parameters(), self._averaged().parameters()
            move_average(averages, values, self.config.average_decay(), first)
            self.ema.n_averaged += 1

    @torch.inference_mode()
    def act(
        self, observations: np.ndarray, goals: np.ndarray | None = None, generator: torch.Generator | None = None
    ) -> np.ndarray:
        """Decide for a batch.

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
        actions = self._sample(self._acting(), conditioning, generator).unflatten(1, (self.chunk, -1))
        return self.action_normalizer.inverse(actions).clamp(self.action_low, self.action_high).cpu().numpy()

    def _checked_conditioning(self, observations: np.ndarray, goals: np.ndarray | None) -> torch.Tensor:
        """`_conditioning` of what `act` was given."""
        expected = (len(observations), self.history, self.sizes["observation_size"])
        if observations.shape != expected:
            raise ValueError(f"observations: expected shape {expected}, got {observations.shape}")
        if (goals is None) == self.goal_conditioned:
            raise ValueError(f"goals: expected {'an array' if self.goal_conditioned else 'None'}, got {type(goals)}")
        return self._conditioning(self._tensor(observations), None if goals is None else self._tensor(goals))

    def _clip(self, actions: torch.Tensor) -> torch.Tensor:
        """Normalised actions (n, action_size) within the bounds of the data, as `act` would clip them."""
        return actions.clamp(self.action_normalizer(self.action_low), self.action_normalizer(self.action_high))

    def _acting(self) -> nn.ModuleDict:
        """The networks that act."""
        return self.networks

    def _conditioning(self, observations: torch.Tensor, goals: torch.Tensor | None) -> torch.Tensor:
        """(n, history, observation_size), (n, observation_size) -> (n, inputs), normalised."""
        parts = [self.observation_normalizer(observations).flatten(1)]
        if goals is not None:
            parts.append(self.observation_normalizer(goals))
        return torch.cat(parts, 1)

    def _tensor(self, array: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(array, dtype=torch.float32).to(self.observation_normalizer.center.device)

    def _noise(self, rows: int, generator: torch.Generator | None) -> torch.Tensor:
        """Standard normal noise (rows, chunk * action_size), drawn on the CPU so that devices agree."""
        noise = torch.randn(rows, self.chunk * self.sizes["action_size"], generator=generator)
        return noise.to(self.observation_normalizer.center.device)


def _normalizer(mode: Mode, statistics: ColumnStatistics) -> Normalizer:
    columns = (statistics.mean, statistics.std, statistics.min, statistics.max)
    return Normalizer.from_statistics(mode, *(torch.from_numpy(np.array(column)) for column in columns))
