"""NF-RLBC: offline RL with a conditional normalizing flow as the policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from nfkern import CouplingFlow, Flow
from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.networks import make_encoder
from nfkern.algorithms.agents.offline.base import OfflineRL, PolicyValueConfig, Transitions, task_presets
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise
from nfkern.algorithms.agents.policy import Policy


@dataclass(frozen=True)
class NFRLBCConfig(PolicyValueConfig):
    """The paper's settings for NF-RLBC (reference code); `alpha` and `q_aggregation` differ between environments."""

    learning_rate: float = 1e-4
    gamma: float = 0.995
    q_aggregation: Literal["min", "mean"] = "min"
    alpha: float = 10.0
    """Weight of imitation (nats) against the critics' value; 10 for manipulation, 1 for locomotion."""
    entropy_weight: float = 0.0
    """Weight of the policy's entropy (nats); the paper describes it, but runs with 0."""
    blocks: int = 6
    """Coupling blocks."""
    hidden: tuple[int, int] = (256 + 64, 256)
    """Hidden widths of the conditioners; the first is width + representation in the paper's code."""
    norm_eps: float = 1e-6
    """Epsilon of the conditioners' LayerNorm."""
    inverted: bool = True
    """Parameterise the map from noise to actions instead of its inverse, as the paper's code for offline RL does."""
    representation: int = 64
    """Size of the encoding that conditions the flow."""
    encoder_width: int = 512
    """Hidden width of the encoder's four layers."""
    encoder: str | None = None
    """MODULE:CLASS of an encoder of your own, a torch.nn.Module that is made with (inputs, representation). MODULE may
    be a file in the current folder. Default the paper's."""

    def _least(self) -> dict[str, float]:
        least = {"alpha": 0, "entropy_weight": 0, "blocks": 1, "representation": 1, "encoder_width": 1}
        return super()._least() | least


# From the README of the paper's code.
_BY_ENVIRONMENT: dict[str, dict[str, Any]] = {
    "puzzle-3x3-play": {"alpha": 10.0},
    "scene-play": {"alpha": 10.0},
    "cube-single-play": {"alpha": 10.0},
    "antmaze-large-navigate": {"alpha": 1.0},
    "humanoidmaze-medium-navigate": {"alpha": 1.0},
    "antsoccer-arena-navigate": {"alpha": 1.0, "q_aggregation": "mean"},
}
_PRESETS = task_presets(NFRLBCConfig(), "paper's JAX code for offline RL, and its README", _BY_ENVIRONMENT)


@register("nf_rlbc", summary="offline RL with a normalizing flow", presets=_PRESETS)
class NFRLBC(OfflineRL):
    """A flow policy that maximises the critics' value of its samples, and the likelihood of the data's actions.

    Gradients of the value flow through sampling. Actions are clipped, not squashed by tanh.

    Source: Ghugare and Eysenbach, "Normalizing Flows are Capable Models for RL", 2025,
    https://arxiv.org/abs/2505.23527.
    """

    config_class = NFRLBCConfig

    def _build_policy(self, inputs: int, outputs: int) -> Mapping[str, nn.Module]:
        config = self.config
        flow = CouplingFlow(
            outputs,
            config.representation,
            blocks=config.blocks,
            hidden=config.hidden,
            norm_eps=config.norm_eps,
            inverted=config.inverted,
        )
        encoder = make_encoder(config.encoder, inputs, config.representation, config.encoder_width)
        return {"encoder": encoder, "flow": flow}

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return torch.randn(rows, width, **options), torch.randn(rows, width, **options)

    def _next_value(self, transitions: Transitions, noise: Noise) -> torch.Tensor:
        actions = self._clip(_sampled(self.networks, transitions.next_states, noise[0]))
        return self._target_value(transitions.next_states, actions)

    def _actor_loss(self, transitions: Transitions, noise: Noise) -> LossAndInfo:
        flow, context = _flow(self.networks), self.networks["encoder"](transitions.states)
        actions, log_prob = flow.rsample_and_log_prob((), context, noise=noise[1])
        q = self._q(transitions.states, self._clip(actions), frozen=True).amin(0).mean()
        likelihood = flow(transitions.actions, context).mean()
        loss = -q - self.config.alpha * likelihood + self.config.entropy_weight * log_prob.mean()
        return loss, {"q": q, "log_prob": likelihood, "entropy": -log_prob.mean()}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        return _sampled(networks, conditioning, self._noise(conditioning.shape[0], generator))

    def freeze(self) -> Policy:
        """Return the flow frozen behind its encoder."""
        networks = self._acting()
        return self._frozen(_flow(networks), networks["encoder"], 0.0)


def _flow(networks: nn.ModuleDict) -> Flow:
    return cast(Flow, networks["flow"])


def _sampled(networks: nn.ModuleDict, states: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return _flow(networks).sample((), networks["encoder"](states), noise=noise)
