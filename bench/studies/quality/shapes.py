"""The densities of the study. Each bends, moves or weighs its modes by the context."""

import math

import torch
from torch.distributions import MultivariateNormal

from nfkern.bench.studies.quality.densities import Density, GaussianMixture, gaussians, rotation


class Checkerboard(Density):
    """Uniform on the eight dark cells of a board of 4 x 4; the first context turns it, the second tilts its weights."""

    name = "checkerboard"
    summary = "uniform on 8 of 4 x 4 cells; the context turns the board and weighs the cells"
    modes = 8
    cell = 0.35
    """Width: turned by 45 degrees, the board's corners still lie in [-1, 1]^2."""

    def __init__(self) -> None:
        cells = [(column, row) for row in range(4) for column in range(4) if (row + column) % 2 == 0]
        self._centres = (torch.tensor(cells, dtype=torch.float64) - 1.5) * self.cell

    def log_weights(self, contexts: torch.Tensor) -> torch.Tensor:
        """Heavier to the right, or to the left."""
        return (contexts[:, 1:] * self._centres[:, 0] / self.cell).log_softmax(1)

    def log_prob(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """A cell's weight over its area; -inf elsewhere."""
        mode = self.mode_of(x, contexts)
        weight = self.log_weights(contexts).gather(1, mode.clamp(min=0)[:, None]).squeeze(1)
        return torch.where(mode < 0, -math.inf, weight - 2 * math.log(self.cell))

    def sample(self, contexts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw a cell, then a point of it."""
        within = torch.rand(len(contexts), 2, generator=generator, dtype=torch.float64) - 0.5
        board = self._centres[self.draw_modes(contexts, generator)] + self.cell * within
        return (rotation(contexts[:, 0] * math.pi / 4) @ board[..., None]).squeeze(-1)

    def mode_of(self, x: torch.Tensor, contexts: torch.Tensor) -> torch.Tensor:
        """Return the dark cell around a point."""
        board = (rotation(-contexts[:, 0] * math.pi / 4) @ x[..., None]).squeeze(-1)
        distance, index = (board[:, None] - self._centres).abs().amax(2).min(1)
        return torch.where(distance <= self.cell / 2, index, -1)


class Pinwheel(GaussianMixture):
    """Five arms, twisted by an angle that grows with the radius; the contexts turn the wheel and set the twist."""

    name = "pinwheel"
    summary = "five twisted arms; the context turns and twists them"
    modes = 5

    def components(self, contexts: torch.Tensor) -> tuple[torch.Tensor, MultivariateNormal]:
        """Arms of equal weight on a circle, long along the radius."""
        arms = torch.arange(self.modes, dtype=torch.float64) * 2 * math.pi / self.modes
        # Radial and tangential direction of each arm, as columns.
        frames = rotation(contexts[:, :1] * math.pi / self.modes + arms)
        root = frames * torch.tensor([0.1, 0.025], dtype=torch.float64)
        equal = torch.full((1, self.modes), -math.log(self.modes), dtype=torch.float64)
        return equal, gaussians(0.5 * frames[..., 0], torch.linalg.cholesky(root @ root.mT))

    def twist(self, x: torch.Tensor, contexts: torch.Tensor, sign: int = 1) -> torch.Tensor:
        """Turn each point by an angle of its radius, which keeps radii and areas."""
        rate = (3 + 2 * contexts[:, 1]).reshape(-1, *(1,) * (x.ndim - 2))
        return (rotation(sign * rate * (x.norm(dim=-1) - 0.5)) @ x[..., None]).squeeze(-1)


class TwentyFiveGaussians(GaussianMixture):
    """A grid of 5 x 5 narrow Gaussians; the contexts stretch it along one axis and tilt its weights along the other."""

    name = "gaussians_25"
    summary = "25 narrow Gaussians on a grid; the context stretches the grid and weighs its columns"
    modes = 25
    scale = 0.03

    def components(self, contexts: torch.Tensor) -> tuple[torch.Tensor, MultivariateNormal]:
        """Modes 0.36 apart from left to right, 0.27 to 0.41 from below to above; heavier to one side."""
        steps = torch.arange(-2.0, 3.0, dtype=torch.float64)
        grid = torch.cartesian_prod(steps, steps)
        upwards = 0.34 + 0.07 * contexts[:, 0]
        spacing = torch.stack([torch.full_like(upwards, 0.36), upwards], 1)
        weights = (0.4 * contexts[:, 1:] * grid[:, 0]).log_softmax(1)
        return weights, gaussians(grid * spacing[:, None], self.scale * torch.eye(2, dtype=torch.float64)[None, None])


class Heteroscedastic(GaussianMixture):
    """One Gaussian whose mean, scales (0.01 to 0.1) and axes all move with the context."""

    name = "heteroscedastic"
    summary = "one Gaussian; its mean, its scales (0.01 to 0.1) and its axes move with the context"
    modes = 1

    def components(self, contexts: torch.Tensor) -> tuple[torch.Tensor, MultivariateNormal]:
        """A mean on a curved surface; a shear after scales that are a factor of ten apart at most."""
        first, second = contexts[:, 0], contexts[:, 1]
        mean = 0.45 * torch.stack([(math.pi * first).sin(), (2 * second + first).cos()], 1)
        scales = torch.stack([-0.5 * (1 + first), -0.5 * (1 - second)], 1)
        factors = torch.diag_embed(0.1 * 10**scales)
        factors[:, 1, 0] = 0.05 * (3 * second).sin()
        return torch.zeros(1, 1, dtype=torch.float64), gaussians(mean[:, None], factors[:, None])


class Chunk(GaussianMixture):
    """Four planar actions in a row along one of six bent paths, with noise that lasts from one action to the next."""

    name = "chunk"
    summary = "4 actions of 2 numbers along one of 6 paths; the context weighs and bends the paths"
    context_size = 4
    chunk = 4
    modes = 6
    scale = 0.05
    correlation = 0.8
    """Correlation of the noise of neighbouring actions."""

    def components(self, contexts: torch.Tensor) -> tuple[torch.Tensor, MultivariateNormal]:
        """Paths from near the origin outwards, bent by the third context and as fast as the fourth says.

        They are heavier towards the direction of the first two contexts, down to a few thousandths.
        """
        steps = torch.arange(1, self.chunk + 1, dtype=torch.float64)
        directions = torch.arange(self.modes, dtype=torch.float64) * 2 * math.pi / self.modes
        weights = (2 * contexts[:, :2] @ torch.stack([directions.cos(), directions.sin()])).log_softmax(1)
        angles = directions[:, None] + contexts[:, 2, None, None] * steps / self.chunk
        radii = (0.6 + 0.1 * contexts[:, 3, None, None]) * steps / self.chunk
        means = torch.stack([radii * angles.cos(), radii * angles.sin()], -1).flatten(2)
        over_time = self.correlation ** (steps[:, None] - steps).abs()
        covariance = torch.kron(over_time, torch.eye(2, dtype=torch.float64)) * self.scale**2
        return weights, gaussians(means, torch.linalg.cholesky(covariance)[None, None])


DENSITIES: dict[str, Density] = {
    density.name: density for density in (Checkerboard(), Pinwheel(), TwentyFiveGaussians(), Heteroscedastic(), Chunk())
}
