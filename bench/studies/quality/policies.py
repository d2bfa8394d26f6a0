"""The policies of the study, and what their trainings share.

All learn from the same batches with the same optimiser, schedule and average of the weights, in as many steps. Depths
and proportions are those of each algorithm's own settings; widths are scaled until the networks that act have about
the same number of parameters.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import nn

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.imitation.diffusion_bc import DiffusionBC
from nfkern.algorithms.agents.imitation.flow_matching_bc import FlowMatchingBC
from nfkern.algorithms.agents.imitation.gaussian_bc import GaussianBC
from nfkern.algorithms.agents.imitation.nf_bc import NFBC
from nfkern.algorithms.data import ColumnStatistics, DatasetStatistics
from nfkern.bench.core.sizes import nearest_width
from nfkern.bench.studies.policies import Policy, Training, layers
from nfkern.bench.studies.quality.densities import Density
from nfkern.bench.studies.quality.heads import DistilledBC, LikelihoodBC, MixtureBC, SplineBC

_STATISTICS_ROWS = 20_000


def _flow(width: int) -> dict[str, Any]:
    """NF-BC's proportions: 512 hidden units, 256 numbers of context, 512 wide an encoder."""
    return {"hidden": (width, width), "representation": max(1, width // 2), "encoder_width": width}


_NF_ACTING = ("encoder", "flow")
# zuko's documentation asks for standardised data, because its splines cover [-5, 5].
_STANDARDIZED = {"action_normalization": "standard"}

TRAININGS: dict[str, Training] = {
    training.name: training
    for training in (
        Training("nf", NFBC, _flow, {"noise_std": 0.0, "denoise": False}, _NF_ACTING),
        Training("nf_noised", NFBC, _flow, {"noise_std": 0.1, "denoise": True}, _NF_ACTING),
        Training("gaussian_mean", GaussianBC, layers(3)),
        Training("gaussian", MixtureBC, layers(3), {"components": 1}),
        Training("mixture", MixtureBC, layers(3), {"components": 32}),
        Training("diffusion", DiffusionBC, layers(4), {"diffusion_steps": 100}, ("noise",), ("diffusers",)),
        Training("flow_matching", FlowMatchingBC, layers(4), acting=("velocity",)),
        Training("distilled", DistilledBC, layers(4)),
        Training("spline", SplineBC, layers(2), _STANDARDIZED, ("flow",), ("zuko",)),
        Training("spline_coupling", SplineBC, layers(2), _STANDARDIZED | {"passes": 2}, ("flow",), ("zuko",)),
    )
}

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("nf", "NF-BC's coupling flow, trained on the actions as they are", "nf", density=True),
        Policy("nf_denoised", "NF-BC's recipe: trained on noised actions, acting with one denoising step", "nf_noised"),
        Policy("gaussian_mean", "OGBench's Gaussian of unit variance, acting with its mean", "gaussian_mean"),
        Policy("gaussian", "a Gaussian with learned scales, acting with a sample", "gaussian", density=True),
        Policy("mixture", "a mixture density network of 32 diagonal Gaussians", "mixture", density=True),
        Policy("ddpm_100", "diffusion, 100 DDPM steps", "diffusion", {"sampler": "ddpm", "sampling_steps": 100}),
        Policy("ddim_10", "the same diffusion, 10 DDIM steps", "diffusion", {"sampler": "ddim", "sampling_steps": 10}),
        Policy("flow_matching_10", "flow matching, 10 Euler steps", "flow_matching", {"flow_steps": 10}),
        Policy("flow_matching_1", "the same flow matching, 1 Euler step", "flow_matching", {"flow_steps": 1}),
        Policy("distilled", "one step distilled from 10 of flow matching, as in FQL without critics", "distilled"),
        Policy("spline", "zuko's neural spline flow as it comes, autoregressive", "spline", density=True),
        Policy(
            "spline_coupling",
            "the same with couplings, which invert in two passes: for decisions of two numbers no other flow",
            "spline_coupling",
            density=True,
        ),
    )
}


def recipe(steps: int, batch_size: int, learning_rate: float) -> dict[str, Any]:
    """Settings of every agent: warm-up, cosine decay, and the average of weights that diffusion policies want.

    The average spans about the last twentieth of the steps, so that the first ones do not enter it.
    """
    return {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "schedule": "cosine",
        "warmup_steps": steps // 40,
        "weight_decay": 0.0,
        "ema_decay": max(0.0, 1 - 20 / steps),
        "observation_normalization": "none",
    }


def build(training: Training, density: Density, parameters: int, shared: dict[str, Any]) -> BehavioralCloning:
    """Return a fresh agent with as many parameters; its weights come from torch's global generator."""
    sizes = training.sizes(fitted_width(training, density, parameters))
    return _create(training.agent, shared | dict(training.settings) | sizes, density)


def acting_networks(agent: BehavioralCloning) -> nn.ModuleDict:
    """Return the networks that `act` uses: the averaged ones where there is an average."""
    networks = agent.networks if agent.ema is None else agent.ema.module
    assert isinstance(networks, nn.ModuleDict)
    return networks


@torch.no_grad()
def log_density(agent: BehavioralCloning, actions: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
    """Return the log-density (n,), in nats, of actions (n, D) in their own units, given observations (n, C).

    Raises:
        TypeError: the agent's actions have no density that it can tell.
    """
    normalized = agent.action_normalizer(actions.float().unflatten(1, (agent.chunk, -1))).flatten(1)
    networks, observations = acting_networks(agent), observations.float()
    if isinstance(agent, NFBC) and not agent.config.denoise:
        found: torch.Tensor = networks["flow"](normalized, networks["encoder"](observations))
    elif isinstance(agent, LikelihoodBC):
        found = agent.log_density(networks, normalized, observations)
    else:
        raise TypeError(f"agent: expected one whose actions have a density, got {type(agent).__name__}")
    log_scale = agent.action_normalizer.scale.double().log().sum()
    return found.double().sub(log_scale, alpha=agent.chunk)


@lru_cache
def fitted_width(training: Training, density: Density, parameters: int) -> int:
    """Return the width at which the acting networks' number of parameters comes nearest to `parameters`.

    Raises:
        ValueError: none comes within `sizes.PARAMETERS_WITHIN`.
    """

    def count(width: int) -> int:
        with torch.random.fork_rng(devices=[]):
            agent = _create(training.agent, dict(training.settings) | training.sizes(width), density)
        return training.count_parameters(agent)[0]

    return nearest_width(count, parameters)


def _create(kind: type[BehavioralCloning], settings: dict[str, Any], density: Density) -> BehavioralCloning:
    config = kind.config_class(**settings | {"chunk": density.chunk})
    example = {"observations": torch.zeros(1, density.context_size), "actions": torch.zeros(1, density.size)}
    return kind.create(config, example, _statistics(density))


@lru_cache
def _statistics(density: Density) -> DatasetStatistics:
    """Statistics of a sample, as a dataset would have them."""
    generator = torch.Generator().manual_seed(0)
    contexts = density.contexts(_STATISTICS_ROWS, generator)
    actions = density.sample(contexts, generator).unflatten(1, (density.chunk, -1)).flatten(0, 1)
    return DatasetStatistics(_column(contexts), _column(actions))


def _column(values: torch.Tensor) -> ColumnStatistics:
    parts = (values.mean(0), values.std(0), values.amin(0), values.amax(0))
    return ColumnStatistics(*(part.float().numpy() for part in parts))
