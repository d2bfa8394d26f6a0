"""Diffusion: the noise it learns, and the steps from noise to an action, against formulas written out here."""

import math

import numpy as np
import pytest
import torch
from support.small_agents import act, make_agent, make_batch


class LinearNoise(torch.nn.Module):
    """Stands for a trained noise predictor, and keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, inputs):
        self.seen.append(inputs)
        return 0.6 * inputs[:, 3:5] + 0.1 * inputs[:, 5:6]


def cosine_signal(steps):
    """The share of variance that the signal keeps at each level: Nichol and Dhariwal's equations 17, from scratch."""
    level = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - level[1:] / level[:-1], 0.999))


def test_diffusion_learns_the_noise_that_it_added():
    agent = make_agent("diffusion_bc")
    batch = make_batch(agent.config, rows=512)
    noise = agent.networks["noise"] = LinearNoise()
    loss, _ = agent.loss(batch, torch.Generator().manual_seed(1))
    added, steps = agent.draw(agent.tensors(batch), torch.Generator().manual_seed(1))
    assert set(steps.tolist()) == set(range(20))
    signal = torch.from_numpy(cosine_signal(20)).float()[steps][:, None]
    noised = signal.sqrt() * torch.from_numpy(batch["actions"]) + (1 - signal).sqrt() * added
    torch.testing.assert_close(noise.seen[0][:, 3:5], noised, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, (0.6 * noised + 0.1 * noise.seen[0][:, 5:6] - added).square().mean())


@pytest.mark.parametrize(("sampler", "sampling_steps"), [("ddpm", 20), ("ddpm", 5), ("ddim", 5)])
def test_diffusion_samples_by_the_published_steps(sampler, sampling_steps):
    agent = make_agent("diffusion_bc", sampler=sampler, sampling_steps=sampling_steps, ema_decay=0.0)
    agent.networks["noise"] = LinearNoise()
    actions = act(agent)[:, 0]
    generator, signal = torch.Generator().manual_seed(0), cosine_signal(20)
    point = torch.randn(5, 2, generator=generator).double()
    stride = 20 // sampling_steps
    for step in reversed(range(0, 20, stride)):
        now, before = signal[step], signal[step - stride] if step else 1.0
        noise = 0.6 * point + 0.1 * math.sin(step)
        clean = ((point - (1 - now) ** 0.5 * noise) / now**0.5).clamp(-1, 1)
        if sampler == "ddim":
            point = before**0.5 * clean + (1 - before) ** 0.5 * noise
            continue
        added = 1 - now / before
        point = (before**0.5 * added * clean + (now / before) ** 0.5 * (1 - before) * point) / (1 - now)
        if step:
            spread = ((1 - before) / (1 - now) * added) ** 0.5
            point = point + spread * torch.randn(5, 2, generator=generator)
    np.testing.assert_allclose(actions, point.clamp(-1, 1).numpy(), rtol=1e-3, atol=1e-4)
    assert np.abs(actions).min() < 0.9


def test_more_steps_than_levels_are_refused():
    with pytest.raises(ValueError, match="sampling_steps: expected 1 to 20, the levels of noise, got 21"):
        make_agent("diffusion_bc", sampling_steps=21)
