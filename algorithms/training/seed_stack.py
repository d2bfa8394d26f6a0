"""Several seeds of one agent, trained as one in batched kernels."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.func import functional_call, stack_module_state

from nfkern.algorithms.agents.base import Agent, Batch
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise, Tensors, move_average, optimization
from nfkern.flows.coupling import CouplingFlow


class SeedStack:
    """Agents that differ in nothing but their seed, with every weight and moment stacked along a leading dimension.

    The loss runs under `torch.vmap`, autograd outside it: the gradient of the sum over seeds is each seed's own, and
    AdamW, its schedule and the moving average act on each number by itself. Every seed therefore follows the path of a
    run of its own, up to rounding: batched products add in another order.

    Args:
        agents: at least one, all with the same settings, sizes and number of steps taken; on one device.

    Attributes:
        agents: they hold the state as of the last `synchronise`.
    """

    def __init__(self, agents: Sequence[Agent]) -> None:
        self.agents = agents
        self.config = agents[0].config
        for mine, *theirs in zip(*map(_permutations, agents), strict=True):
            if not all(torch.equal(mine, each) for each in theirs):
                raise ValueError("agents: expected flows with the same permutations, got others from old checkpoints")
        self._parameters, self._buffers = stack_module_state([agent.networks for agent in agents])
        self.optimizer, self.scheduler = optimization(self._parameters.values(), self.config)
        for mine, *theirs in zip(self._parameters.values(), *map(_optimizer_states, agents), strict=True):
            if theirs[0]:
                self.optimizer.state[mine] = {name: _stack(name, [each[name] for each in theirs]) for name in theirs[0]}
        _copy_schedule(agents[0], self)
        averages = [dict(agent.ema.module.named_parameters()) for agent in agents if agent.ema is not None]
        names = averages[0] if averages else ()
        self._averages = {name: torch.stack([each[name] for each in averages]).detach() for name in names}

    def __call__(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """The losses (seeds,) and their parts, each (seeds,); arguments as `inputs` gives them."""

        def one(weights: Tensors, averages: Tensors, batch: Tensors, noise: Noise) -> Any:
            state = {f"networks.{name}": tensor for name, tensor in weights.items()}
            state |= {f"ema.module.{name}": tensor for name, tensor in averages.items()}
            return functional_call(self.agents[0], state, (batch, noise))

        losses, info = torch.vmap(one)(self._parameters | self._buffers, self._averages, batch, noise)
        return losses, info

    def inputs(self, batch: Batch, generators: Sequence[torch.Generator]) -> tuple[Tensors, Noise]:
        """`Agent.inputs` of every seed, stacked: a batch (seeds, batch, ...), one generator per seed."""
        tensors = self.agents[0].tensors(batch)
        noise = [self.agents[0].draw(tensors, generator) for generator in generators]
        return tensors, tuple(torch.stack(each) for each in zip(*noise, strict=True))

    def average(self) -> None:
        """`Agent.average` of every seed."""
        if self._averages:
            first = self.scheduler.last_epoch == 0
            values = [self._parameters[name] for name in self._averages]
            move_average(self._averages.values(), values, self.config.average_decay(), first)

    @torch.no_grad()
    def synchronise(self) -> None:
        """Bring the agents to the stack's state: weights, averages, optimiser and schedule."""
        for index, agent in enumerate(self.agents):
            for parameter, mine in zip(agent.networks.parameters(), self._parameters.values(), strict=True):
                parameter.copy_(mine[index])
                agent.optimizer.state[parameter] = {
                    name: tensor[index].clone() if tensor.ndim else tensor.clone()
                    for name, tensor in self.optimizer.state[mine].items()
                }
            if agent.ema is not None:
                for average, stacked in zip(agent.ema.module.parameters(), self._averages.values(), strict=True):
                    average.copy_(stacked[index])
                agent.ema.n_averaged.fill_(self.scheduler.last_epoch)
            _copy_schedule(self, agent)


def _optimizer_states(agent: Agent) -> list[Mapping[str, torch.Tensor]]:
    return [agent.optimizer.state.get(parameter, {}) for parameter in agent.networks.parameters()]


def _permutations(agent: Agent) -> list[torch.Tensor]:
    """Return the permutations of an agent's flows, which are neither parameters nor buffers."""
    return [module.permutation for module in agent.modules() if isinstance(module, CouplingFlow)]


def _stack(name: str, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack the moments, also those of a single number; the number of steps is shared."""
    return tensors[0].clone() if name == "step" else torch.stack(list(tensors))


def _copy_schedule(source: Agent | SeedStack, target: Agent | SeedStack) -> None:
    settings = {key: value for key, value in source.optimizer.param_groups[0].items() if key != "params"}
    target.optimizer.param_groups[0].update(copy.deepcopy(settings))
    target.scheduler.load_state_dict(copy.deepcopy(source.scheduler.state_dict()))
