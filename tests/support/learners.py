"""Learners as training makes them, on a tiny dataset."""

import dataclasses

import numpy as np
import pytest
import torch

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data import BatchSampler, DeviceBatchSampler, DeviceDataset
from nfkern.algorithms.training.learner import Streams
from support.dataset_fixture import numbered_dataset
from support.small_agents import SMALL

OPTIONS = {"batch_size": 16, "warmup_steps": 5, "schedule": "cosine", "weight_decay": 0.01, "steps": 40}


@pytest.fixture
def double_precision(monkeypatch):
    """Let agents that were made in float64 learn in it. Import it by name into a test module."""
    monkeypatch.setattr(Agent, "_tensor", lambda self, array: torch.as_tensor(array, dtype=torch.float64), raising=True)


def make_config(name, **options):
    """Small networks, and everything switched on that acts on a step."""
    kind = AGENTS[name]
    known = {field.name for field in dataclasses.fields(kind.config_class)}
    average = {"tau": 0.1, "ema_decay": 0.9}
    settings = SMALL[name] | OPTIONS | {key: average[key] for key in average if key in known}
    return kind.config_class(**(settings | options))


def make_learner(name, seeds=(0,), on_device=False, dtype=torch.float32, device="cpu", **options):
    """The agents and streams of some seeds, with a sampler on the device or on the host."""
    dataset = numbered_dataset([9, 7, 12], 3, 2)
    dataset.observations[:] = np.random.default_rng(0).normal(size=dataset.observations.shape)
    dataset.actions[:] = np.tanh(dataset.observations[:, :2])
    done = dataset.observations[:, 2] > 1
    dataset = dataset.with_rewards(done - 1.0, 1.0 - done)
    config = make_config(name, **options)
    batches = config.batches()
    agents, streams = [], []
    for seed in seeds:
        torch.manual_seed(seed)
        example = BatchSampler(dataset, **batches | {"batch_size": 1}).sample()
        agents.append(AGENTS[name].create(config, example, dataset.statistics()).to(device, dtype))
        kind, data = (DeviceBatchSampler, DeviceDataset(dataset, device)) if on_device else (BatchSampler, dataset)
        samplers = {split: kind(data, **batches, seed=(seed, stream)) for stream, split in enumerate(("train", "val"))}
        streams.append(Streams(samplers, torch.Generator(device).manual_seed(seed)))
    return agents, streams


def states(agent):
    """Weights, buffers and the optimiser's numbers, by name."""
    moments = [state for _, state in sorted(agent.optimizer.state_dict()["state"].items())]
    return dict(agent.state_dict()) | {
        f"optimizer.{i}.{key}": value for i, state in enumerate(moments) for key, value in state.items()
    }
