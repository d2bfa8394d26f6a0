"""NF-UGS: unsupervised goal sampling, with a conditional normalizing flow as the density of future goals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from nfkern import CouplingFlow, Encoder
from nfkern.algorithms.agents.base import register
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.networks import frozen_call
from nfkern.algorithms.agents.online.base import Exploration, OnlineGCRL, OnlineGCRLConfig
from nfkern.algorithms.agents.optimization import LossAndInfo, Noise, Tensors
from nfkern.algorithms.published import UNSUPERVISED
from nfkern.flows.tabulated import tabulated_log_prob_2d

# From this number of goals on, tables of the conditioners cost less than the conditioners.
TABLES_FROM = 20_000


@dataclass(frozen=True)
class NFUGSConfig(OnlineGCRLConfig):
    """The paper's settings for NF-UGS (its JAX code)."""

    weight_decay: float = 1e-6
    exploration: Exploration = "lowest_density"
    """Rule that chooses goals: the candidate of lowest marginal density, or another rule for comparison."""
    blocks: int = 6
    """Coupling blocks."""
    hidden: tuple[int, int] = (320, 256)
    """Hidden widths of the conditioners; the first is width + representation in the paper's code."""
    norm_eps: float = 1e-6
    """Epsilon of the conditioners' LayerNorm."""
    goal_noise: float = 0.05
    """Standard deviation of the noise added to goals in training, in the goals' units (metres)."""
    context_dropout: float = 0.1
    """Share of transitions whose encoding is zeroed in training, so that the flow learns the marginal density, too."""

    def _least(self) -> dict[str, float]:
        return super()._least() | {"blocks": 1, "goal_noise": 0}

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if not 0 <= self.context_dropout < 1:
            raise ValueError(f"context_dropout: expected a number in [0, 1), got {self.context_dropout}")


@register(
    "nf_ugs",
    summary="unsupervised goal-conditioned RL in a maze, with a normalizing flow over goals",
    presets={
        name: Preset(NFUGSConfig(), "paper's JAX code (NF-UGS); batch size from its README", name)
        for name in UNSUPERVISED
    },
)
class NFUGS(OnlineGCRL):
    """log p(goal | state, action) as the critic; the goals of lowest marginal p(goal) are practised next.

    Source: Ghugare and Eysenbach, "Normalizing Flows are Capable Models for RL", 2025,
    https://arxiv.org/abs/2505.23527.
    """

    config_class = NFUGSConfig
    has_density = True

    def _build_critic(self, inputs: int, goal_size: int) -> Mapping[str, nn.Module]:
        config = self.config
        encoder = Encoder(inputs, config.representation, width=config.width, layers=config.layers)
        flow = CouplingFlow(
            goal_size, config.representation, blocks=config.blocks, hidden=config.hidden, norm_eps=config.norm_eps
        )
        return {"encoder": encoder, "flow": flow}

    def _critic_group(self) -> tuple[str, ...]:
        return ("flow",)

    def _draw(self, rows: int, width: int, **options: Any) -> Noise:
        goal_noise = torch.randn(rows, self.sizes["goal_size"], **options)
        return *super()._draw(rows, width, **options), goal_noise, torch.rand(rows, 1, **options)

    def _critic_loss(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        _, goal_noise, uniform = noise
        goals = batch["goals"] + self.config.goal_noise * goal_noise
        encoded = self.networks["encoder"](torch.cat([batch["observations"], batch["actions"]], 1))
        kept = uniform >= self.config.context_dropout
        log_prob = self.networks["flow"](goals, encoded * kept)
        return -log_prob.mean(), {}

    def _value(
        self, states: torch.Tensor, actions: torch.Tensor, goals: torch.Tensor, *, frozen: bool = False
    ) -> torch.Tensor:
        encoded = frozen_call(self.networks["encoder"], torch.cat([states, actions], 1), frozen=frozen)
        return frozen_call(self.networks["flow"], goals, encoded, frozen=frozen)

    @torch.inference_mode()
    def log_density(self, goals: np.ndarray) -> np.ndarray:
        """Return the marginal log-density; tables give that of many goals on a CPU, one call that of others."""
        flow, points = cast(CouplingFlow, self.networks["flow"]), self._tensor(goals)
        nothing = points.new_zeros(self.config.representation)
        if points.device.type == "cpu" and points.shape[-1] == 2 and points.numel() > 2 * TABLES_FROM:
            log_prob = tabulated_log_prob_2d(flow, points, nothing)
        else:
            log_prob = flow.log_prob(points, nothing.expand(1, 1, -1))
        found: np.ndarray = log_prob.cpu().numpy()
        return found
