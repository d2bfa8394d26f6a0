"""NF-BC: behavioural cloning with a conditional normalizing flow."""

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from nfkern import CausalFlow, CouplingFlow, Flow
from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.imitation.base import BehavioralCloning, BehavioralCloningConfig
from nfkern.algorithms.agents.networks import make_encoder
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise
from nfkern.algorithms.agents.policy import Policy


@dataclass(frozen=True)
class NFBCConfig(BehavioralCloningConfig):
    """The paper's settings for NF-BC (reference code; noise and denoising as in its section on imitation)."""

    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 500
    weight_decay: float = 1e-6
    flow: Literal["coupling", "causal"] = "coupling"
    """A coupling flow over all actions of a chunk at once, or a causal flow over one after the other."""
    causal_token: Literal["action", "number"] = "action"
    """Token of a causal flow: an action of the chunk, or a single number of an action."""
    blocks: int = 12
    """Coupling blocks."""
    hidden: tuple[int, int] = (512, 512)
    """Hidden widths of the conditioners."""
    norm_eps: float = 1e-5
    """Epsilon of the conditioners' LayerNorm."""
    causal_blocks: int = 4
    """Number of blocks of a causal flow."""
    causal_layers: int = 2
    """Transformer layers of each of its blocks."""
    causal_width: int = 256
    """Width of its transformers."""
    causal_context: Literal["prefix", "add"] = "prefix"
    """How a causal flow sees the encoding: before its first token, or added to every token as published for labels."""
    representation: int = 256
    """Size of the encoding that conditions the flow."""
    encoder_width: int = 512
    """Hidden width of the encoder's four layers."""
    encoder: str | None = None
    """MODULE:CLASS of an encoder of your own, a torch.nn.Module that is made with (inputs, representation). MODULE may
    be a file in the current folder. Default the paper's."""
    noise_std: float = 0.1
    """Standard deviation of the noise added to normalised actions in training; denoise removes it when acting."""
    denoise: bool = True
    """Act with one denoising step, action + noise_std^2 grad log p(action)."""

    def _least(self) -> dict[str, float]:
        least = super()._least() | {"blocks": 1, "representation": 1, "encoder_width": 1, "noise_std": 0}
        return least | {"causal_blocks": 1, "causal_layers": 1, "causal_width": 1}


# Few steps ask for a higher learning rate than the paper's million.
SMALL: dict[str, Any] = {
    "steps": 5000,
    "learning_rate": 1e-3,
    "blocks": 4,
    "hidden": (128, 128),
    "representation": 64,
    "encoder_width": 256,
}
"""Settings for vectors of states on a CPU."""
SMALL_SOURCE = "chosen here, for vectors of states and minutes on a CPU"
# Chunks keep a policy on the path that it has chosen.
_SCRIPTED = NFBCConfig(**SMALL, history=5, chunk=4, execute=4)
_PUSHT = NFBCConfig(
    blocks=24,
    history=2,
    chunk=8,
    execute=4,
    learning_rate=1e-3,
    observation_normalization="min_max",
    action_normalization="min_max",
)
_ANT = NFBCConfig(history=100, chunk=8, execute=8, observation_normalization="min_max", action_normalization="min_max")
_PRESETS = {
    "pusht": Preset(
        _PUSHT,
        "paper's torch code, PushT command of its README (chunk 16 / 8 in the script's defaults)",
        "pusht-human-v0",
        {"train_episodes": 90},
    ),
    "ur3": Preset(NFBCConfig(history=10, observation_normalization="none"), "paper's torch code, UR3 BlockPush"),
    "ant": Preset(_ANT, "paper's torch code, Multimodal Ant"),
    "kitchen": Preset(
        NFBCConfig(history=10, representation=1024, observation_normalization="none"),
        "paper's torch code, Kitchen",
        "kitchen-human-v0",
    ),
    **{
        name: Preset(_SCRIPTED, "chosen here, for a minute or two on a CPU", f"{name}-scripted-v0")
        for name in ("pointmass", "blockpush")
    },
    "small": Preset(NFBCConfig(**SMALL), SMALL_SOURCE),
}


@register("nf_bc", summary="behavioural cloning with a normalizing flow", presets=_PRESETS)
class NFBC(BehavioralCloning):
    """Maximum likelihood of noised actions under a flow conditioned on encoded observations.

    Source: Ghugare and Eysenbach, "Normalizing Flows are Capable Models for RL", 2025,
    https://arxiv.org/abs/2505.23527.
    """

    config_class = NFBCConfig

    def _build(self, inputs: int, outputs: int) -> nn.ModuleDict:
        config = self.config
        flow: Flow
        if config.flow == "causal":
            tokens = config.chunk if config.causal_token == "action" else outputs
            if tokens < 2:
                raise ValueError(
                    f"chunk: expected more than one {config.causal_token} for a causal flow, which is a Gaussian over "
                    f"a single one, got {config.chunk} of {outputs // config.chunk} numbers"
                )
            flow = CausalFlow(
                tokens,
                outputs // tokens,
                config.representation,
                blocks=config.causal_blocks,
                layers=config.causal_layers,
                width=config.causal_width,
                context_mode=config.causal_context,
                norm_eps=config.norm_eps,
            )
        else:
            flow = CouplingFlow(
                outputs, config.representation, blocks=config.blocks, hidden=config.hidden, norm_eps=config.norm_eps
            )
        encoder = make_encoder(config.encoder, inputs, config.representation, config.encoder_width)
        return nn.ModuleDict({"encoder": encoder, "flow": flow})

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        return (torch.randn(rows, width, **options),)

    def _actor_loss(self, actions: torch.Tensor, conditioning: torch.Tensor, *noise: torch.Tensor) -> LossAndInfo:
        noised = actions + self.config.noise_std * noise[0]
        flow = self.networks["flow"]
        log_prob = flow(noised.unflatten(1, flow.event_shape), self.networks["encoder"](conditioning))
        return -log_prob.mean(), {"log_prob": log_prob.mean()}

    def _sample(
        self, networks: nn.ModuleDict, conditioning: torch.Tensor, generator: torch.Generator | None
    ) -> torch.Tensor:
        flow, context = networks["flow"], networks["encoder"](conditioning)
        assert isinstance(flow, Flow)
        noise = self._noise(conditioning.shape[0], generator).unflatten(1, flow.event_shape)
        if not self.config.denoise:
            return flow.sample((), context, noise=noise).flatten(1)
        return flow.sample_denoised(self.config.noise_std, (), context, noise=noise).flatten(1)

    def freeze(self) -> Policy:
        """Return the flow frozen behind its encoder."""
        networks, sigma = self._acting(), self.config.noise_std if self.config.denoise else 0.0
        return self._frozen(cast(Flow, networks["flow"]), networks["encoder"], sigma)
