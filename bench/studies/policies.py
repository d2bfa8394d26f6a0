"""How a study declares its policies: which agent each is, how it learns, how it acts, and how wide it is.

Two policies that differ only in how they act share one training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

from nfkern.algorithms.agents.imitation.base import BehavioralCloning


@dataclass(frozen=True, eq=False)
class Training:
    """An agent and its settings besides those that all share.

    Args:
        name: as in records.
        agent: its class.
        sizes: settings of its networks, for a width.
        settings: the other settings that are not the agent's defaults, or that ought to be seen here.
        acting: names of the networks that act.
        requires: modules that must be importable.
    """

    name: str
    agent: type[BehavioralCloning]
    sizes: Callable[[int], dict[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    acting: tuple[str, ...] = ("policy",)
    requires: tuple[str, ...] = ()

    def not_supported_reasons(self) -> list[str]:
        """Why it cannot run here; empty if it can."""
        return [f"needs the module {name}" for name in self.requires if find_spec(name) is None]


@dataclass(frozen=True)
class Policy:
    """A way to act with what a training has learned.

    Args:
        name: as in records.
        summary: one line for reports.
        training: name of its training.
        acting: settings of acting that are not the training's.
        density: whether its actions have a log-density that it can tell.
    """

    name: str
    summary: str
    training: str
    acting: Mapping[str, Any] = field(default_factory=dict)
    density: bool = False


def layers(count: int) -> Callable[[int], dict[str, Any]]:
    """`Training.sizes` of a network with `count` hidden layers of one width."""
    return lambda width: {"hidden": (width,) * count}


def skipped(
    policies: Mapping[str, Policy], trainings: Mapping[str, Training], names: tuple[str, ...]
) -> dict[str, str]:
    """Of the policies that cannot run here, why."""
    reasons = {name: trainings[policies[name].training].not_supported_reasons() for name in names}
    return {name: "; ".join(found) for name, found in reasons.items() if found}


def acting_agent(policy: Policy, trained: BehavioralCloning) -> BehavioralCloning:
    """An agent with the weights of its training and the policy's way to act."""
    agent = type(trained)(replace(trained.config, **policy.acting), **trained.sizes)
    agent.load_state_dict(trained.state_dict())
    return agent


def count_parameters(training: Training, agent: BehavioralCloning) -> tuple[int, int]:
    """Numbers in the networks that act, and in all that are trained."""
    acting = sum(parameter.numel() for name in training.acting for parameter in agent.networks[name].parameters())
    return acting, sum(parameter.numel() for parameter in agent.networks.parameters())
