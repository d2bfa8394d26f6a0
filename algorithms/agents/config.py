"""Settings that all agents share, and named settings with their sources."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nfkern.algorithms.data import GoalSampling
from nfkern.flows.normalizer import Mode

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
    """Learning rate at which cosine decay ends."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    observation_normalization: Mode = "standard"
    """How observations and goals are normalised; the paper feeds them raw ("none")."""
    action_normalization: ActionMode = "auto"
    """How actions are normalised; auto: "none" if all lie in [-1, 1], as OGBench's do, else "min_max"."""

    def goal_sampling(self) -> GoalSampling | None:
        """Return how goals are drawn; None for an agent without goals."""
        return None

    def actor_goal_sampling(self) -> GoalSampling | None:
        """Return how the policy's goals are drawn; None if it learns for the same goals as its critics, or for none."""
        return None

    def batches(self) -> dict[str, Any]:
        """Return the arguments of `BatchSampler` and `DeviceBatchSampler` that make the agent's batches."""
        goals = {"goals": self.goal_sampling(), "actor_goals": self.actor_goal_sampling()}
        return goals | {"batch_size": self.batch_size, "history": 1, "chunk": 1}

    def average_decay(self) -> float:
        """Return the decay of the moving average that the agent keeps of all or some weights; 0 for no average."""
        return 0.0

    def _least(self) -> dict[str, float]:
        """Return the smallest valid values of settings."""
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


@dataclass(frozen=True)
class Preset:
    """Settings of an agent, with their source."""

    config: AgentConfig
    source: str
    env_name: str | None = None
    """The dataset or maze that they are for, used unless the user names another."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the run that belong to them."""
