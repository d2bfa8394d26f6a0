"""Policies that a robot could run instead: heads from an observation to an action, as arithmetic in plain PyTorch.

Loops are unrolled by hand into one graph, with the schedule's numbers as constants, and with the observation's and the
levels' shares of the first layer computed once. `acting.py` has the forms in which they run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import linear, softplus

from nfkern.algorithms.agents.diffusion import EMBEDDING_WIDTH, Diffusion, noise_predictor
from nfkern.algorithms.agents.flow_matching import integrate, velocity_field
from nfkern.algorithms.agents.networks import mlp, sinusoidal_embedding
from nfkern.bench.problems.encoded import OBSERVATION_SIZE
from nfkern.bench.problems.flow_problem import SEED
from nfkern.bench.rivals.models import Forward

COMPONENTS = 32
_LEAST_STD = 1e-3
_LEVELS = 100

Action = Forward
"""From observations (batch, 58) and standard normal noise (draws, batch, features) to actions (batch, features)."""

Sample = Callable[[torch.Tensor], torch.Tensor]
"""From observations to actions, with noise from torch's generator."""


@dataclass(frozen=True)
class Head:
    """A way to make actions with one network.

    Args:
        name: of its eager variant.
        summary: one line.
        network: from the number of features and the hidden widths.
        layers: hidden layers.
        draws: how many times it draws noise for an action.
        action: its arithmetic in plain PyTorch with any loop unrolled, of a network and the number of features.
        packaged: the same as a package does it, with noise from torch's generator; None for what has no loop.
        steps: passes through the network.
        requires: modules that must be importable.
    """

    name: str
    summary: str
    network: Callable[[int, tuple[int, ...]], nn.Sequential]
    layers: int
    draws: int
    action: Callable[[nn.Sequential, int], Action]
    packaged: Callable[[nn.Sequential, int], Sample] | None = None
    steps: int = 1
    requires: tuple[str, ...] = ()

    def make(self, features: int, width: int) -> nn.Sequential:
        """A network with random weights, the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            network = self.network(features, (width,) * self.layers).requires_grad_(False)
        # PyTorch's own layers: the agents' networks run nfkern's kernels.
        return nn.Sequential(*network)


def _gaussian_mean(network: nn.Sequential, features: int) -> Action:
    return Forward(network, lambda observations, noise: network(observations))


def _mixture(network: nn.Sequential, features: int) -> Action:
    """A sample; the first draw's first number chooses the component, by the cumulated probabilities."""

    def act(observations: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        logits, rest = network(observations).split([COMPONENTS, 2 * COMPONENTS * features], 1)
        means, raw = rest.unflatten(1, (COMPONENTS, 2 * features)).chunk(2, 2)
        uniform = torch.special.ndtr(noise[0, :, :1])
        chosen = (logits.softmax(1).cumsum(1)[:, :-1] < uniform).sum(1, keepdim=True)
        chosen = chosen[..., None].expand(-1, -1, features)
        mean, raw_std = (each.gather(1, chosen).squeeze(1) for each in (means, raw))
        action: torch.Tensor = mean + (softplus(raw_std) + _LEAST_STD) * noise[1]
        return action

    return Forward(network, act)


def _one_step(network: nn.Sequential, features: int) -> Action:
    return Forward(network, lambda observations, noise: network(torch.cat([observations, noise[0]], 1)))


class _Stepped(nn.Module):
    """A network of (observation, point, embedded step), told in advance which steps will come."""

    observation: torch.Tensor
    point: torch.Tensor
    steps: torch.Tensor

    def __init__(self, network: nn.Sequential, features: int, embedded: torch.Tensor) -> None:
        super().__init__()
        first = network[0]
        assert isinstance(first, nn.Linear)
        sizes = [OBSERVATION_SIZE, features, embedded.shape[1]]
        observation, point, level = (part.contiguous() for part in first.weight.split(sizes, 1))
        # Buffers, so that compilers which freeze know them as weights.
        self.register_buffer("observation", observation)
        self.register_buffer("point", point)
        self.register_buffer("steps", linear(embedded.to(first.weight.dtype), level, first.bias))
        self.rest = network[1:]

    def hoisted(self, observations: torch.Tensor) -> torch.Tensor:
        """The observations' share of the first layer, (batch, width)."""
        return linear(observations, self.observation)

    def forward(self, hoisted: torch.Tensor, point: torch.Tensor, step: int) -> torch.Tensor:
        """Return the network's output for points (batch, features) at a step."""
        found: torch.Tensor = self.rest(hoisted + linear(point, self.point, self.steps[step]))
        return found


def _euler(steps: int, network: nn.Sequential, features: int) -> Action:
    stepped = _Stepped(network, features, torch.arange(steps)[:, None] / steps)

    def act(observations: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        hoisted, point = stepped.hoisted(observations), noise[0]
        for step in range(steps):
            point = point + stepped(hoisted, point, step) / steps
        return point

    return Forward(stepped, act)


def _schedule(sampler: str, steps: int) -> Any:
    from diffusers.schedulers import DDIMScheduler, DDPMScheduler

    schedule = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}[sampler](_LEVELS, beta_schedule="squaredcos_cap_v2")
    schedule.set_timesteps(steps)
    return schedule


def denoising_numbers(sampler: str, steps: int) -> list[tuple[float, ...]]:
    """Return the numbers of each step, by formulas (7) of DDPM and (12) of DDIM, with a the share of the data.

    They are 1 / sqrt(a), sqrt(1 - a), and what the data, the point, the predicted noise and fresh noise are multiplied
    by for the next point.
    """
    schedule = _schedule(sampler, steps)
    kept = schedule.alphas_cumprod.double()[schedule.timesteps]
    after, none = torch.cat([kept[1:], torch.ones(1, dtype=torch.float64)]), torch.zeros(steps)
    factors = (after.sqrt(), none, (1 - after).sqrt(), none)
    if sampler == "ddpm":
        ratio, left = kept / after, (1 - after) / (1 - kept)
        data = after.sqrt() * (1 - ratio) / (1 - kept)
        factors = (data, ratio.sqrt() * left, none, (left * (1 - ratio)).sqrt())
    return list(zip(*(each.tolist() for each in (kept.rsqrt(), (1 - kept).sqrt(), *factors)), strict=True))


def _denoising(sampler: str, steps: int, network: nn.Sequential, features: int) -> Action:
    """Diffusion's steps, what the data are believed to be clipped to [-1, 1], with the schedule as constants."""
    embedded = sinusoidal_embedding(_schedule(sampler, steps).timesteps, EMBEDDING_WIDTH)
    stepped, numbers = _Stepped(network, features, embedded), denoising_numbers(sampler, steps)

    def act(observations: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        hoisted, point = stepped.hoisted(observations), noise[0]
        for step, (unscale, std, to_data, to_point, to_noise, fresh) in enumerate(numbers):
            predicted = stepped(hoisted, point, step)
            data = ((point - std * predicted) * unscale).clamp(-1, 1)
            point = to_data * data + (to_point * point if to_point else to_noise * predicted)
            if fresh:
                point = point + fresh * noise[step + 1]
        return point

    return Forward(stepped, act)


def _euler_loop(steps: int, network: nn.Sequential, features: int) -> Sample:
    return lambda observations: integrate(network, torch.randn(len(observations), features), observations, steps)


def _scheduled(sampler: Literal["ddpm", "ddim"], steps: int, network: nn.Sequential, features: int) -> Sample:
    diffusion = Diffusion(_LEVELS, sampler, steps)
    return lambda observations: diffusion.sample(network, torch.randn(len(observations), features), observations)


def _mlp(inputs: int, outputs: int, extra: int, features: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """From the observation and `inputs` numbers a feature to `outputs` numbers a feature and `extra` more."""
    return mlp(OBSERVATION_SIZE + inputs * features, outputs * features + extra, hidden)


def _flow_matching(steps: int) -> Head:
    summary = f"flow matching, {steps} Euler step{'s' if steps > 1 else ''}"
    network = partial(velocity_field, OBSERVATION_SIZE)
    return Head(
        f"flow_matching_{steps}", summary, network, 4, 1, partial(_euler, steps), partial(_euler_loop, steps), steps
    )


def diffusion_head(sampler: Literal["ddpm", "ddim"], steps: int, draws: int) -> Head:
    """Diffusion by the steps of one of diffusers' samplers."""
    network = partial(noise_predictor, OBSERVATION_SIZE)
    functions = partial(_denoising, sampler, steps), partial(_scheduled, sampler, steps)
    summary = f"diffusion, {steps} {sampler.upper()} steps"
    return Head(f"{sampler}_{steps}", summary, network, 4, draws, *functions, steps, ("diffusers",))


_MIXTURE = partial(_mlp, 0, 2 * COMPONENTS, COMPONENTS)

HEADS = (
    Head("gaussian", "a Gaussian policy's mean", partial(_mlp, 0, 1, 0), 3, 0, _gaussian_mean),
    Head("mixture", f"a sample of a mixture of {COMPONENTS} Gaussians", _MIXTURE, 3, 2, _mixture),
    diffusion_head("ddpm", 100, 100),
    diffusion_head("ddim", 10, 1),
    _flow_matching(10),
    _flow_matching(1),
    Head("distilled", "a policy distilled to one step, as FQL's", partial(_mlp, 1, 1, 0), 4, 1, _one_step),
)
"""With as many layers as OGBench's Gaussian has, the mixture too, or FQL's networks."""

OWN_WIDTH = 512
"""Width of the hidden layers in OGBench and FQL."""
