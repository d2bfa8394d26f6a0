"""Conditional densities of actions that are known exactly: what one is, and mixtures of Gaussians.

Contexts are uniform in [-1, 1]^C. Actions lie in [-1, 1]^D, where agents clamp them: Gaussians reach beyond only with
tails of five standard deviations. Everything is float64.
"""

from abc import ABC, abstractmethod

import torch
from scipy import stats
from torch.distributions import MultivariateNormal

ON_MODE = 0.99
"""Share of a mode's own samples that count as being on it."""


class Density(ABC):
    """p(x | c) over x of `chunk * action_size` numbers, made of `modes` components that hardly overlap.

    Attributes:
        name: as in records.
        summary: one line for reports.
        context_size: C.
        action_size: numbers of one action.
        chunk: actions of one decision.
        modes: number of components.
    """

    name: str
    summary: str
    context_size = 2
    action_size = 2
    chunk = 1
    modes: int

    @property
    def size(self) -> int:
        """D, the numbers of x."""
        return self.chunk * self.action_size

    def contexts(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw contexts (count, C)."""
        return 2 * torch.rand(count, self.context_size, generator=generator, dtype=torch.float64) - 1

    def draw_modes(self, contexts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw a mode per context, (n,), by `log_weights`."""
        return torch.multinomial(self.log_weights(contexts).exp(), 1, generator=generator).squeeze(1)

    @abstractmethod
    def log_weights(self, contexts: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of each mode, (n, modes), in nats, for contexts (n, C)."""

    @abstractmethod
    def log_prob(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Return the log-density (n,), in nats, of x (n, D) given contexts (n, C)."""

    @abstractmethod
    def sample(self, contexts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw one x per context: (n, C) -> (n, D)."""

    @abstractmethod
    def mode_of(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Return the index of the mode that x (n, D) is on, (n,), or -1 where it is on none."""


class GaussianMixture(Density):
    """A mixture of Gaussians, which a subclass may twist by a map that keeps volumes.

    A point is on the mode nearest to it by Mahalanobis distance, within the radius that holds `ON_MODE` of a mode.
    """

    @abstractmethod
    def components(self, contexts: torch.Tensor) -> tuple[torch.Tensor, MultivariateNormal]:
        """Return log-weights (n or 1, modes), in nats, and Gaussians (n, modes) before the twist."""

    def twist(self, x: torch.Tensor, contexts: torch.Tensor, sign: int = 1) -> torch.Tensor:
        """Move points (n, ..., D) by a map whose Jacobian has determinant 1; `sign` -1 is its inverse."""
        return x

    def log_weights(self, contexts: torch.Tensor) -> torch.Tensor:
        """See `Density.log_weights`."""
        return self.components(contexts)[0].expand(len(contexts), -1)

    def log_prob(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """See `Density.log_prob`."""
        log_weights, gaussians = self.components(contexts)
        return torch.logsumexp(gaussians.log_prob(self.twist(x, contexts, -1)[:, None]) + log_weights, 1)

    def sample(self, contexts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw a mode, then from its Gaussian; see `Density.sample`."""
        rows, modes = torch.arange(len(contexts)), self.draw_modes(contexts, generator)
        _, gaussians = self.components(contexts)
        noise = torch.randn(len(contexts), self.size, 1, generator=generator, dtype=torch.float64)
        return self.twist(gaussians.loc[rows, modes] + (gaussians.scale_tril[rows, modes] @ noise).squeeze(2), contexts)

    def mode_of(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """See `Density.mode_of`."""
        _, gaussians = self.components(contexts)
        densities = gaussians.log_prob(self.twist(x, contexts, -1)[:, None])
        # Of a Gaussian's log-density, half a squared Mahalanobis distance is what it has lost since its mean.
        nearest, index = (2 * (gaussians.log_prob(gaussians.loc) - densities)).min(1)
        return torch.where(nearest <= stats.chi2.ppf(ON_MODE, self.size), index, -1)


def gaussians(means: torch.Tensor, cholesky: torch.Tensor) -> MultivariateNormal:
    """Return Gaussians of means (n, modes, D) and factors L of covariances L L^T, (n or 1, modes or 1, D, D)."""
    return MultivariateNormal(means, scale_tril=cholesky, validate_args=False)


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """Return counter-clockwise rotations by angles (...,), in radians: (..., 2, 2)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
