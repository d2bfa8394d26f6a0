"""Diffusion: a network that predicts noise in data, with the schedules and samplers of the diffusers library."""

from typing import Any, Literal

import torch
from torch import nn

from nfkern.algorithms.agents.networks import mlp, sinusoidal_embedding
from nfkern.algorithms.agents.optimization import Noise

EMBEDDING_WIDTH = 128


def noise_predictor(conditioning: int, features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Return a network for `Diffusion`, from (conditioning, point, embedded level) to noise."""
    return mlp(conditioning + features + EMBEDDING_WIDTH, features, hidden)


class Diffusion:
    """Noise levels on the squared-cosine schedule, and sampling from noise to data.

    Source: Ho et al., "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239; the schedule
    is Nichol and Dhariwal's, 2021, https://arxiv.org/abs/2102.09672.

    Args:
        levels: levels of noise in training.
        sampler: "ddpm" adds fresh noise at each step, "ddim" (https://arxiv.org/abs/2010.02502) does not.
        sampling_steps: steps from noise to data, at most `levels`.
        clip: clip each step's estimate of the data to [-1, 1].
    """

    def __init__(
        self, levels: int, sampler: Literal["ddpm", "ddim"], sampling_steps: int, *, clip: bool = True
    ) -> None:
        # Importing diffusers takes a second, and most agents do not need it.
        from diffusers.schedulers import DDIMScheduler, DDPMScheduler

        if not 1 <= sampling_steps <= levels:
            raise ValueError(f"sampling_steps: expected 1 to {levels}, the levels of noise, got {sampling_steps}")
        settings = {"num_train_timesteps": levels, "beta_schedule": "squaredcos_cap_v2", "clip_sample": clip}
        self.levels = levels
        # Two objects, because adding noise moves a schedule's numbers to the batch's device, while sampling reads them
        # on the host, one at a time.
        self._noising = DDPMScheduler(**settings)
        self._sampler = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[sampler](**settings)
        self._sampler.set_timesteps(sampling_steps)

    def draw(self, rows: int, features: int, **options: Any) -> Noise:
        """Return random numbers for `loss`: noise (rows, features) and its levels (rows,)."""
        levels = torch.randint(self.levels, (rows,), **options | {"dtype": torch.int64})
        return torch.randn(rows, features, **options), levels

    def loss(
        self,
        predictor: nn.Module,
        data: torch.Tensor,
        conditioning: torch.Tensor,
        noise: torch.Tensor,
        levels: torch.Tensor,
    ) -> torch.Tensor:
        """Return the mean squared error of the noise predicted in noised data (batch, features)."""
        noised = self._noising.add_noise(data, noise, levels)
        return (_predict(predictor, conditioning, noised, levels) - noise).square().mean()

    def sample(
        self,
        predictor: nn.Module,
        start: torch.Tensor,
        conditioning: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Turn noise (batch, features) into data; differentiable."""
        point = start
        for level in self._sampler.timesteps.tolist():
            noise = _predict(predictor, conditioning, point, torch.full_like(point[:, 0], level))
            point = self._sampler.step(noise, level, point, generator=generator).prev_sample
        return point


def _predict(
    predictor: nn.Module, conditioning: torch.Tensor, point: torch.Tensor, levels: torch.Tensor
) -> torch.Tensor:
    embedded = sinusoidal_embedding(levels, EMBEDDING_WIDTH)
    noise: torch.Tensor = predictor(torch.cat([conditioning, point, embedded], 1))
    return noise
