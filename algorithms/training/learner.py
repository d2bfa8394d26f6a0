"""The agents of a run with their random streams: one seed by itself, or several in batched kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nfkern.algorithms.agents.base import Agent, Batch
from nfkern.algorithms.agents.optimization import Info, Noise, Tensors, gradient_step
from nfkern.algorithms.data import BatchSampler, DeviceBatchSampler
from nfkern.algorithms.training.cuda_graph import Capture, CapturedStep
from nfkern.algorithms.training.data_parallel import DataParallel, ProcessGroup
from nfkern.algorithms.training.seed_stack import SeedStack

Sampler = BatchSampler | DeviceBatchSampler


@dataclass(frozen=True)
class Streams:
    """The random numbers in the training of one seed."""

    samplers: dict[str, Sampler]
    """One for each of the splits `train` and, if there is such data, `val`."""
    generator: torch.Generator
    """For the loss's own randomness, on the agent's device."""


class Learner:
    """Takes the gradient steps of one or several seeds.

    Args:
        agents: one per seed, with the same settings and number of steps taken.
        streams: one per seed.
        captured: run steps through `CapturedStep`; the samplers then are `DeviceBatchSampler`s.
        capture: for `CapturedStep`.
        processes: those that share a single seed's batches.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        streams: Sequence[Streams],
        *,
        captured: bool = False,
        capture: Capture | None = None,
        processes: ProcessGroup | None = None,
    ) -> None:
        self.agents, self.streams = agents, streams
        self.processes = processes or ProcessGroup()
        self._model = self._trainable(agents)
        self._step = self._eager_step
        if captured:
            samplers = [each.samplers["train"] for each in streams]
            drawn_from = [sampler.generator for sampler in samplers if isinstance(sampler, DeviceBatchSampler)]
            drawn_from += [each.generator for each in streams]
            self._step = CapturedStep(self._eager_step, self._model.optimizer, drawn_from, capture)

    def _trainable(self, agents: Sequence[Agent]) -> Agent | SeedStack | DataParallel:
        if len(agents) > 1:
            return SeedStack(agents)
        return DataParallel(agents[0], self.processes) if self.processes.size > 1 else agents[0]

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._model.scheduler.get_last_lr()[0])

    def update(self) -> Info:
        """Take one step; return the metrics of each seed, (seeds,) or (), which the next step may overwrite."""
        info = self._step()
        self._model.scheduler.step()
        return info

    @torch.no_grad()
    def validate(self) -> Info:
        """Return the metrics of a validation batch, or none; its noise leaves the training's random stream alone."""
        if "val" not in self.streams[0].samplers:
            return {}
        _, info = self._model(*self._inputs("val", [_copy(each.generator) for each in self.streams]))
        return self.processes.mean(info)

    def synchronise(self) -> None:
        """Bring the agents to the state after the last step."""
        if isinstance(self._model, SeedStack):
            self._model.synchronise()

    def _eager_step(self) -> Info:
        inputs = self._inputs("train", [each.generator for each in self.streams])
        return gradient_step(self._model, *inputs)

    def _inputs(self, split: str, generators: Sequence[torch.Generator]) -> tuple[Tensors, Noise]:
        samplers = [each.samplers[split] for each in self.streams]
        if isinstance(self._model, SeedStack):
            return self._model.inputs(_stacked_batch(samplers), generators)
        return self._model.inputs(samplers[0].sample(), generators[0])


def _stacked_batch(samplers: Sequence[Any]) -> Batch:
    """Return one batch from each sampler, (seeds, batch, ...)."""
    if isinstance(samplers[0], DeviceBatchSampler):
        return samplers[0].batch(torch.stack([sampler.draw() for sampler in samplers]))
    batches = [sampler.sample() for sampler in samplers]
    return {key: np.stack([batch[key] for batch in batches]) for key in batches[0]}


def _copy(generator: torch.Generator) -> torch.Generator:
    return torch.Generator(generator.device).set_state(generator.get_state())
