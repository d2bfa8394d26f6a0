"""NF-BC: behavioural cloning with a conditional normalizing flow."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from nfkern import CouplingFlow, Encoder
from nfkern.algorithms.behavioral_cloning import BehavioralCloning, BehavioralCloningConfig
from nfkern.algorithms.optimization import LossAndInfo, Noise


@dataclass(frozen=True)
class NFBCConfig(BehavioralCloningConfig):
    """The paper's settings for NF-BC (reference code; noise and denoising as in its section on imitation)."""

    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 500
    weight_decay: float = 1e-6
    blocks: int = 12
    """Coupling blocks."""
    hidden: tuple[int, int] = (512, 512)
    """Hidden widths of the conditioners."""
    norm_eps: float = 1e-5
    """Epsilon of the conditioners' LayerNorm."""
    representation: int = 256
    """Size of the encoding that conditions the flow."""
    encoder_width: int = 512
    """Hidden width of the encoder's four layers."""
    noise_std: float = 0.1
    """Standard deviation of the noise added to (normalised) actions in training, and removed again when acting."""
    denoise: bool = True
    """Act with one denoising step, action + noise_std^2 grad log p(action)."""

    def _least(self) -> dict[str, float]:
        return {"blocks": 1, "representation": 1, "encoder_width": 1, "noise_std": 0}


class NFBC(BehavioralCloning):
    """Maximum likelihood of noised actions under a flow conditioned on encoded observations.

    Source: Ghugare and Eysenbach, "Normalizing Flows are Capable Models for RL", 2025,
    https://arxiv.org/abs/2505.23527.
    """

    name = "nf_bc"
    config_class = NFBCConfig

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        config = self.config
        return nn.ModuleDict(
            {
                "encoder": Encoder(inputs, config.representation, width=config.encoder_width),
                "flow": CouplingFlow(
                    outputs,
                    config.representation,
                    blocks=config.blocks,
                    hidden=config.hidden,
                    norm_eps=config.norm_eps,
                ),
            }
        )

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return (torch.randn(rows, width, **options),)

    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        noised = actions + self.config.noise_std * noise[0]
        log_prob = self.networks["flow"](noised, self.networks["encoder"](conditioning))
        return -log_prob.mean(), {"log_prob": log_prob.mean()}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        noise = self._noise(len(conditioning), generator)
        flow, context = networks["flow"], networks["encoder"](conditioning)
        assert isinstance(flow, CouplingFlow)
        if not self.config.denoise:
            return flow.sample((), context, noise=noise)
        return flow.sample_denoised(self.config.noise_std, (), context, noise=noise)
