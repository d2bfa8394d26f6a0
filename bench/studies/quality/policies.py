"""The policies of the study, and what their trainings share.

All learn from the same batches with the same optimiser, schedule and average of the weights, in as many steps. Depths
and proportions are those of each algorithm's own settings; widths are scaled until the networks that act have about
the same number of parameters.
"""

from dataclasses import dataclass
from typing import Any

from nfkern.algorithms.agents.imitation.diffusion_bc import DiffusionBC
from nfkern.algorithms.agents.imitation.flow_matching_bc import FlowMatchingBC
from nfkern.algorithms.agents.imitation.gaussian_bc import GaussianBC
from nfkern.algorithms.agents.imitation.nf_bc import NFBC
from nfkern.bench.studies.policies import Policy, Training, layers
from nfkern.bench.studies.quality.heads import DistilledBC, MixtureBC, SplineBC


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
