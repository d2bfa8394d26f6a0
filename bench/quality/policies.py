"""The policies of the study: which agent each is, how it learns, how it acts, and how wide it is.

All learn from the same batches with the same optimiser, schedule and average of the weights, in as many steps. Depths
and proportions are those of each algorithm's own settings; widths are scaled until the networks that act have about
the same number of parameters. Two policies that differ only in how they act share one training.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from nfkern.algorithms.behavioral_cloning import BehavioralCloning
from nfkern.algorithms.diffusion_bc import DiffusionBC
from nfkern.algorithms.flow_matching_bc import FlowMatchingBC
from nfkern.algorithms.gaussian_bc import GaussianBC
from nfkern.algorithms.nf_bc import NFBC
from nfkern.bench.quality.heads import DistilledBC, MixtureBC, SplineBC


@dataclass(frozen=True, eq=False)
class Training:
    """An agent and its settings besides those that all share.

    Args:
        name: as in records.
        agent: its class.
        sizes: settings of its networks, for a width.
        settings: the other settings that are not the agent's defaults, or that ought to be seen here.
        acting: names of the networks that act.
        requires: modules that must be importable.
    """

    name: str
    agent: type[BehavioralCloning]
    sizes: Callable[[int], dict[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    acting: tuple[str, ...] = ("policy",)
    requires: tuple[str, ...] = ()

    def not_supported_reasons(self) -> list[str]:
        """Why it cannot run here; empty if it can."""
        return [f"needs the module {name}" for name in self.requires if find_spec(name) is None]


@dataclass(frozen=True)
class Policy:
    """A way to act with what a training has learned.

    Args:
        name: as in records.
        summary: one line for reports.
        training: name of its training.
        acting: settings of acting that are not the training's.
        density: whether its actions have a log-density that it can tell.
    """

    name: str
    summary: str
    training: str
    acting: Mapping[str, Any] = field(default_factory=dict)
    density: bool = False


@dataclass(frozen=True)
class Recipe:
    """What all trainings share.

    Args:
        steps: gradient steps.
        parameters: numbers that the networks which act should have.
        batch_size: rows per step.
    """

    steps: int
    parameters: int
    batch_size: int

    def settings(self, learning_rate: float) -> dict[str, Any]:
        """Settings of every agent: warm-up, cosine decay, and the average of weights that diffusion policies want.

        The average spans about the last twentieth of the steps, so that the first ones do not enter it.
        """
        return {
            "steps": self.steps,
            "batch_size": self.batch_size,
            "learning_rate": learning_rate,
            "schedule": "cosine",
            "warmup_steps": self.steps // 40,
            "weight_decay": 0.0,
            "ema_decay": max(0.0, 1 - 20 / self.steps),
            "observation_normalization": "none",
        }


def _layers(count: int) -> Callable[[int], dict[str, Any]]:
    return lambda width: {"hidden": (width,) * count}


def _flow(width: int) -> dict[str, Any]:
    """NF-BC's proportions: 512 hidden units, 256 numbers of context, 512 wide an encoder."""
    return {"hidden": (width, width), "representation": max(1, width // 2), "encoder_width": width}


_NF_ACTING = ("encoder", "flow")

TRAININGS: dict[str, Training] = {
    training.name: training
    for training in (
        Training("nf", NFBC, _flow, {"noise_std": 0.0, "denoise": False}, _NF_ACTING),
        Training("nf_noised", NFBC, _flow, {"noise_std": 0.1, "denoise": True}, _NF_ACTING),
        Training("gaussian_mean", GaussianBC, _layers(3)),
        Training("gaussian", MixtureBC, _layers(3), {"components": 1}),
        Training("mixture", MixtureBC, _layers(3), {"components": 32}),
        Training("diffusion", DiffusionBC, _layers(4), {"diffusion_steps": 100}, ("noise",), ("diffusers",)),
        Training("flow_matching", FlowMatchingBC, _layers(4), acting=("velocity",)),
        Training("distilled", DistilledBC, _layers(4)),
        # zuko's documentation asks for standardised data, because its splines cover [-5, 5].
        Training(
            "spline", SplineBC, _layers(2), {"action_normalization": "standard"}, acting=("flow",), requires=("zuko",)
        ),
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
        Policy("spline", "zuko's autoregressive neural spline flow", "spline", density=True),
    )
}
