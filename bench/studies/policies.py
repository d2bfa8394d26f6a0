"""Declarations of a study's policies: agent, training, way to act and width of each.

Two policies that differ only in how they act share one training.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.policy import Policy as ActingPolicy
from nfkern.bench.core.timing import Budget, Quantiles, interleaved, num_threads, stopwatch_for


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

    def missing(self) -> str:
        """Return why it cannot run here; nothing if it can."""
        return "; ".join(f"needs the module {name}" for name in self.requires if find_spec(name) is None)

    def count_parameters(self, agent: BehavioralCloning) -> tuple[int, int]:
        """Return the numbers in the networks that act, and in all that are trained."""
        acting = sum(parameter.numel() for name in self.acting for parameter in agent.networks[name].parameters())
        return acting, sum(parameter.numel() for parameter in agent.networks.parameters())


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

    def acting_agent(self, trained: BehavioralCloning) -> BehavioralCloning:
        """Return an agent with the weights of the training and the policy's way to act."""
        agent = type(trained)(replace(trained.config, **self.acting), **trained.sizes)
        agent.load_state_dict(trained.state_dict())
        return agent


def layers(count: int) -> Callable[[int], dict[str, Any]]:
    """`Training.sizes` of a network with `count` hidden layers of one width."""
    return lambda width: {"hidden": (width,) * count}


def time_acting(
    policies: Mapping[str, ActingPolicy], inputs: Sequence[tuple[Any, ...]], budget: Budget
) -> Iterator[tuple[str, int, Quantiles]]:
    """Time `act` of policies in turns on one thread: name, number of observations and time for each of the inputs."""
    for arguments in inputs:
        calls = {name: [partial(policy.act, *arguments)] for name, policy in policies.items()}
        with num_threads(1):
            times = interleaved(calls, budget, stopwatch_for(torch.device("cpu")))
        yield from ((name, len(arguments[0]), found) for name, found in times.items())
