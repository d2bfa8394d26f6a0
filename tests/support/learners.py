"""Learners as training makes them, on a tiny dataset."""

import numpy as np
import torch
from dataset_fixture import numbered_dataset

from nfkern.algorithms.agents import AGENTS
from nfkern.algorithms.datasets import BatchSampler, DeviceBatchSampler, DeviceDataset
from nfkern.algorithms.learner import Streams

NETWORKS = {
    "nf": {"blocks": 2, "hidden": (8, 8), "representation": 4, "encoder_width": 8},
    "gaussian": {"hidden": (16, 16)},
    "flow": {"hidden": (16, 16)},
}
OPTIONS = {"batch_size": 16, "warmup_steps": 5, "ema_decay": 0.9, "schedule": "cosine", "weight_decay": 0.01}


def make_config(name, **options):
    """Small networks, and everything switched on that acts on a step."""
    return AGENTS[name].config_class(**(NETWORKS[name.split("_")[0]] | OPTIONS | {"steps": 40} | options))


def make_learner(name, seeds=(0,), on_device=False, dtype=torch.float32, device="cpu", **options):
    """The agents and streams of some seeds, with a sampler on the device or on the host."""
    dataset = numbered_dataset([9, 7, 12], 3, 2)
    dataset.observations[:] = np.random.default_rng(0).normal(size=dataset.observations.shape)
    dataset.actions[:] = np.tanh(dataset.observations[:, :2])
    config = make_config(name, **options)
    shape = (config.batch_size, config.goal_sampling(), config.history, config.chunk)
    agents, streams = [], []
    for seed in seeds:
        torch.manual_seed(seed)
        example = BatchSampler(dataset, 1, None, config.history, config.chunk).sample()
        agents.append(AGENTS[name].create(config, example, dataset.statistics()).to(device, dtype))
        kind, data = (DeviceBatchSampler, DeviceDataset(dataset, device)) if on_device else (BatchSampler, dataset)
        samplers = {split: kind(data, *shape, seed=(seed, stream)) for stream, split in enumerate(("train", "val"))}
        streams.append(Streams(samplers, torch.Generator(device).manual_seed(seed)))
    return agents, streams


def states(agent):
    """Weights, buffers and the optimiser's numbers, by name."""
    moments = [state for _, state in sorted(agent.optimizer.state_dict()["state"].items())]
    return dict(agent.state_dict()) | {
        f"optimizer.{i}.{key}": value for i, state in enumerate(moments) for key, value in state.items()
    }
