"""Conditional densities of actions that are known exactly: what one is, and mixtures of Gaussians.

Contexts are uniform in [-1, 1]^C. Actions lie in [-1, 1]^D, where agents clamp them: Gaussians reach beyond only with
tails of five standard deviations. Everything is float64.
"""

import math
from abc import ABC, abstractmethod

import torch

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
        """Random contexts (count, C)."""
        uniform = torch.rand(count, self.context_size, generator=generator, dtype=torch.float64)
        return 2 * uniform - 1

    @abstractmethod
    def log_weights(self, contexts: torch.Tensor) -> torch.Tensor:
        """Log-probability of each mode, (n, modes), in nats, for contexts (n, C)."""

    @abstractmethod
    def positions(self, contexts: torch.Tensor) -> torch.Tensor:
        """Centre of each mode, (n, modes, D), for contexts (n, C)."""

    @abstractmethod
    def log_prob(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Log-density (n,), in nats, of x (n, D) given contexts (n, C)."""

    @abstractmethod
    def sample(self, contexts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One x per context: (n, C) -> (n, D)."""

    @abstractmethod
    def mode_of(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Index of the mode that x (n, D) is on, (n,), or -1 where it is on none."""

    def draw_modes(self, contexts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A random mode per context, (n,), by `log_weights`."""
        return torch.multinomial(self.log_weights(contexts).exp(), 1, generator=generator).squeeze(1)


class GaussianMixture(Density):
    """A mixture of Gaussians, which a subclass may twist by a map that keeps volumes.

    A point is on the mode nearest to it by Mahalanobis distance, within the radius that holds `ON_MODE` of a mode.
    """

    @abstractmethod
    def means(self, contexts: torch.Tensor) -> torch.Tensor:
        """Of the components before the twist, (n, modes, D)."""

    @abstractmethod
    def cholesky(self, contexts: torch.Tensor) -> torch.Tensor:
        """Of the covariances before the twist: L with L L^T the covariance, (n or 1, modes or 1, D, D)."""

    def twist(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """What becomes of points (n, ..., D); its Jacobian's determinant is 1."""
        return x

    def untwist(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """The inverse of `twist`."""
        return x

    def positions(self, contexts: torch.Tensor) -> torch.Tensor:
        """The twisted means."""
        return self.twist(self.means(contexts), contexts)

    def log_prob(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Of the mixture; see `Density.log_prob`."""
        log_det = self.cholesky(contexts).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        exponent = -0.5 * self._squared_distances(x, contexts)
        of_each = exponent - log_det - 0.5 * self.size * math.log(2 * math.pi)
        return torch.logsumexp(of_each + self.log_weights(contexts), 1)

    def sample(self, contexts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A mode, then its Gaussian; see `Density.sample`."""
        rows, modes = torch.arange(len(contexts)), self.draw_modes(contexts, generator)
        factors = self.cholesky(contexts).expand(len(contexts), self.modes, -1, -1)[rows, modes]
        noise = torch.randn(len(contexts), self.size, 1, generator=generator, dtype=torch.float64)
        return self.twist(self.means(contexts)[rows, modes] + (factors @ noise).squeeze(2), contexts)

    def mode_of(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """See `Density.mode_of`."""
        nearest, index = self._squared_distances(x, contexts).min(1)
        return torch.where(nearest <= chi_squared_quantile(ON_MODE, self.size), index, -1)

    def _squared_distances(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Mahalanobis distances to each mode, squared, (n, modes)."""
        residuals = self.untwist(x, contexts)[:, None] - self.means(contexts)
        factors = self.cholesky(contexts)
        whitened = torch.linalg.solve_triangular(factors, residuals[..., None], upper=False)
        squared: torch.Tensor = whitened.squeeze(-1).square().sum(-1)
        return squared


def chi_squared_quantile(share: float, degrees: int) -> float:
    """The value below which a chi-squared variable of an even number of degrees lies with probability `share`.

    By bisection of its distribution function, 1 - exp(-v/2) sum_{k < degrees/2} (v/2)^k / k!.
    """
    if degrees % 2:
        raise ValueError(f"degrees: expected an even number, got {degrees}")
    low, high = 0.0, 1e3
    while high - low > 1e-9:
        middle = (low + high) / 2
        tail = math.exp(-middle / 2) * sum((middle / 2) ** k / math.factorial(k) for k in range(degrees // 2))
        low, high = (middle, high) if 1 - tail < share else (low, middle)
    return low


def rotation(angles: torch.Tensor) -> torch.Tensor:
    """Counter-clockwise rotations by angles (...,), in radians: (..., 2, 2)."""
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
