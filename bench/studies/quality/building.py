"""Agents of the study, as wide as asked for, and the densities that they tell."""

from functools import lru_cache
from typing import Any

import torch
from torch import nn

from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.imitation.nf_bc import NFBC
from nfkern.algorithms.data import ColumnStatistics, DatasetStatistics
from nfkern.bench.core.sizes import nearest_width
from nfkern.bench.studies.policies import Training, count_parameters
from nfkern.bench.studies.quality.densities import Density
from nfkern.bench.studies.quality.heads import MixtureBC, SplineBC
from nfkern.bench.studies.quality.policies import Recipe

_STATISTICS_ROWS = 20_000


def build(training: Training, density: Density, recipe: Recipe, learning_rate: float = 1e-3) -> BehavioralCloning:
    """A fresh agent, as wide as the recipe asks; its weights come from torch's global generator."""
    width = fitted_width(training, density, recipe.parameters)
    settings = recipe.settings(learning_rate) | dict(training.settings) | training.sizes(width)
    return _create(training.agent, settings, density)


def acting_networks(agent: BehavioralCloning) -> nn.ModuleDict:
    """The networks that `act` uses: the averaged ones where there is an average."""
    networks = agent.networks if agent.ema is None else agent.ema.module
    assert isinstance(networks, nn.ModuleDict)
    return networks


@torch.no_grad()
def log_density(agent: BehavioralCloning, actions: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
    """Log-density (n,), in nats, of actions (n, D) in their own units, given observations (n, C).

    Raises:
        TypeError: the agent's actions have no density that it can tell.
    """
    normalized = agent.action_normalizer(actions.float().unflatten(1, (agent.chunk, -1))).flatten(1)
    networks, observations = acting_networks(agent), observations.float()
    if isinstance(agent, NFBC) and not agent.config.denoise:
        found: torch.Tensor = networks["flow"](normalized, networks["encoder"](observations))
    elif isinstance(agent, MixtureBC | SplineBC):
        found = agent.log_density(networks, normalized, observations)
    else:
        raise TypeError(f"agent: expected one whose actions have a density, got {type(agent).__name__}")
    log_scale = agent.action_normalizer.scale.double().log().sum()
    return found.double().sub(log_scale, alpha=agent.chunk)


@lru_cache
def fitted_width(training: Training, density: Density, parameters: int) -> int:
    """The width at which the acting networks' number of parameters comes nearest to `parameters`.

    Raises:
        ValueError: none comes within `sizes.PARAMETERS_WITHIN`.
    """

    def count(width: int) -> int:
        with torch.random.fork_rng(devices=[]):
            agent = _create(training.agent, dict(training.settings) | training.sizes(width), density)
        return count_parameters(training, agent)[0]

    return nearest_width(count, parameters)


def _create(kind: type[BehavioralCloning], settings: dict[str, Any], density: Density) -> BehavioralCloning:
    config = kind.config_class(**settings | {"chunk": density.chunk})
    example = {"observations": torch.zeros(1, density.context_size), "actions": torch.zeros(1, density.size)}
    return kind.create(config, example, _statistics(density))


@lru_cache
def _statistics(density: Density) -> DatasetStatistics:
    """Of a sample, as a dataset would have them."""
    generator = torch.Generator().manual_seed(0)
    contexts = density.contexts(_STATISTICS_ROWS, generator)
    actions = density.sample(contexts, generator).unflatten(1, (density.chunk, -1)).flatten(0, 1)
    return DatasetStatistics(_column(contexts), _column(actions))


def _column(values: torch.Tensor) -> ColumnStatistics:
    parts = (values.mean(0), values.std(0), values.amin(0), values.amax(0))
    return ColumnStatistics(*(part.float().numpy() for part in parts))
