"""The policies of the study, and the settings that their trainings share.

All learn from the same data with the same goals, batch size, learning rate and schedule, in as many steps. What else
there is to set, such as an average of the weights, is each algorithm's own.
"""

from collections.abc import Mapping
from typing import Any

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.imitation.diffusion_gcbc import DiffusionGCBC
from nfkern.algorithms.agents.imitation.flow_matching_gcbc import FlowMatchingGCBC
from nfkern.algorithms.agents.imitation.gaussian_gcbc import GaussianGCBC
from nfkern.algorithms.agents.imitation.nf_gcbc import NFGCBC
from nfkern.bench.core.sizes import nearest_width
from nfkern.bench.studies.policies import Policy, Training, layers
from nfkern.bench.studies.success.records import Dataset, Settings

AT_THE_END = ("ddpm_100",)
"""Policies that are evaluated after the training only: an episode of 100 steps per action takes too long."""


def _flow(width: int) -> dict[str, Any]:
    """NF-GCBC's proportions: 256 hidden units, 64 numbers of context, 512 wide an encoder."""
    return {"hidden": (width, width), "representation": max(1, width // 4), "encoder_width": 2 * width}


TRAININGS: dict[str, Training] = {
    training.name: training
    for training in (
        Training("nf", NFGCBC, _flow, acting=("encoder", "flow")),
        Training("gaussian", GaussianGCBC, layers(3)),
        Training("flow_matching", FlowMatchingGCBC, layers(4), acting=("velocity",)),
        Training("diffusion", DiffusionGCBC, layers(4), acting=("noise",), requires=("diffusers",)),
    )
}

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("nf", "NF-GCBC: a coupling flow, acting with one denoising step", "nf"),
        Policy("gaussian", "OGBench's Gaussian of unit variance, acting with its mean", "gaussian"),
        Policy("flow_matching_10", "flow matching, 10 Euler steps", "flow_matching", {"flow_steps": 10}),
        Policy("flow_matching_1", "the same flow matching, 1 Euler step", "flow_matching", {"flow_steps": 1}),
        Policy("ddim_10", "diffusion, 10 DDIM steps", "diffusion", {"sampler": "ddim", "sampling_steps": 10}),
        Policy(
            "ddpm_100", "the same diffusion, 100 DDPM steps", "diffusion", {"sampler": "ddpm", "sampling_steps": 100}
        ),
    )
}


def config_of(settings: Settings, training: Training, acting: Mapping[str, Any], dataset: Dataset) -> Any:
    """Return the agent's settings, as wide as asked for and with settings of acting.

    Raises:
        ValueError: no width gives as many parameters as asked for.
    """
    shared: dict[str, Any] = {
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "schedule": "cosine",
        "warmup_steps": settings.warmup_steps,
        "gamma": settings.gamma,
    }
    shared |= dict(training.settings) | dict(acting)
    if settings.parameters is None:
        return training.agent.config_class(**shared)

    def count(width: int) -> int:
        config = training.agent.config_class(**shared | training.sizes(width))
        return training.count_parameters(untrained(training, config, dataset))[0]

    return training.agent.config_class(**shared | training.sizes(nearest_width(count, settings.parameters)))


def untrained(training: Training, config: Any, dataset: Dataset) -> BehavioralCloning:
    """Return an agent for the data's observations and actions, with random weights and no normalisation."""
    return training.agent(config, dataset.observation_size, dataset.action_size)
