"""Policy heads that the study needs and no algorithm of the package has, as agents like the others."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nfkern.algorithms.agents.flow_matching import draw_paths, flow_matching_loss, integrate
from nfkern.algorithms.agents.imitation.base import BehavioralCloning, BehavioralCloningConfig
from nfkern.algorithms.agents.imitation.flow_matching_bc import FlowMatchingBC
from nfkern.algorithms.agents.networks import mlp
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise


class LikelihoodBC(BehavioralCloning):
    """Maximum likelihood of a head that tells its log-density."""

    def log_density(self, networks: nn.ModuleDict, actions: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        """Return the log-density (n,), in nats, of normalised actions (n, outputs)."""
        raise NotImplementedError

    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        return -self.log_density(self.networks, actions, conditioning).mean(), {}


@dataclass(frozen=True)
class MixtureBCConfig(BehavioralCloningConfig):
    """Settings of a mixture density network."""

    hidden: tuple[int, ...] = (512, 512, 512)
    """Widths of the hidden layers: as many as the Gaussian baseline has."""
    components: int = 32
    """Gaussians; 1 for a Gaussian with scales of its own."""
    least_std: float = 1e-3
    """Added to all standard deviations, so that none collapses."""


class MixtureBC(LikelihoodBC):
    """Maximum likelihood of a mixture of diagonal Gaussians; acts with a sample.

    References:
        Bishop, "Mixture Density Networks", 1994, https://publications.aston.ac.uk/id/eprint/373/.
    """

    name = "mixture_bc"
    config_class = MixtureBCConfig

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        self._outputs = outputs
        return nn.ModuleDict({"policy": mlp(inputs, self.config.components * (1 + 2 * outputs), self.config.hidden)})

    def log_density(self, networks: nn.ModuleDict, actions: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        """Return the log-density (n,), in nats, of normalised actions (n, outputs)."""
        logits, means, stds = self._components(networks, conditioning)
        residuals = (actions[:, None] - means) / stds
        exponents = -0.5 * (residuals.square() + math.log(2 * math.pi)) - stds.log()
        return torch.logsumexp(exponents.sum(2) + logits.log_softmax(1), 1)

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        logits, means, stds = self._components(networks, conditioning)
        chosen = torch.multinomial(logits.softmax(1), 1, generator=generator)[..., None].expand(-1, -1, self._outputs)
        mean, std = means.gather(1, chosen).squeeze(1), stds.gather(1, chosen).squeeze(1)
        return mean + std * self._noise(len(conditioning), generator)

    def _components(self, networks: nn.ModuleDict, conditioning: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits (n, components), means and standard deviations (n, components, outputs)."""
        components = self.config.components
        logits, rest = networks["policy"](conditioning).split([components, 2 * components * self._outputs], 1)
        means, raw = rest.unflatten(1, (components, 2 * self._outputs)).chunk(2, 2)
        return logits, means, nn.functional.softplus(raw) + self.config.least_std


class DistilledBC(FlowMatchingBC):
    """FQL without critics: flow matching, and a one-step policy that learns to do its Euler steps at once.

    Source: Park, Li and Levine, "Flow Q-Learning", 2025, https://arxiv.org/abs/2502.02538.
    """

    name = "distilled_bc"

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        networks = super()._build(inputs, outputs)
        networks["policy"] = mlp(inputs + outputs, outputs, self.config.hidden)
        return networks

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return torch.randn(rows, width, **options), *draw_paths(rows, width, **options)

    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        start, *path = noise
        velocity = self.networks["velocity"]
        imitation = flow_matching_loss(velocity, actions, conditioning, *path)
        with torch.no_grad():
            many_steps = integrate(velocity, start, conditioning, self.config.flow_steps).clamp(-1, 1)
        one_step = self.networks["policy"](torch.cat([conditioning, start], 1))
        # The two reach separate networks, and AdamW's steps do not depend on a loss's scale: no weight is needed.
        distillation = (one_step - many_steps).square().mean()
        return imitation + distillation, {"imitation": imitation, "distillation": distillation}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        noise = self._noise(len(conditioning), generator)
        actions: torch.Tensor = networks["policy"](torch.cat([conditioning, noise], 1))
        return actions


@dataclass(frozen=True)
class SplineBCConfig(BehavioralCloningConfig):
    """Settings of zuko's neural spline flow: its own, but for the widths."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of each transform's network."""
    transforms: int = 3
    """Autoregressive transforms."""
    bins: int = 8
    """Pieces of each spline."""
    passes: int | None = None
    """Passes through a network that inverting a transform takes; None is one for each number, 2 is a coupling."""


class SplineBC(LikelihoodBC):
    """Maximum likelihood under zuko's spline flow: autoregressive, inverted number by number, or of couplings.

    References:
        Durkan et al., "Neural Spline Flows", 2019, https://arxiv.org/abs/1906.04032.
    """

    name = "spline_bc"
    config_class = SplineBCConfig

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        from zuko.flows import NSF

        config = self.config
        options = {"bins": config.bins, "transforms": config.transforms, "passes": config.passes}
        flow = NSF(outputs, inputs, hidden_features=config.hidden, **options)
        return nn.ModuleDict({"flow": flow})

    def log_density(self, networks: nn.ModuleDict, actions: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        """Return the log-density (n,), in nats, of normalised actions (n, outputs)."""
        log_prob: torch.Tensor = networks["flow"](conditioning).log_prob(actions)
        return log_prob

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        noise = self._noise(len(conditioning), generator)
        actions: torch.Tensor = networks["flow"](conditioning).transform.inv(noise)
        return actions
