"""Agents with small networks, and batches that suit them."""

import numpy as np
import torch

from nfkern.algorithms.agents.goals.base import OfflineGCRL
from nfkern.algorithms.agents.imitation.base import BehavioralCloning
from nfkern.algorithms.agents.offline.base import Offline, OfflineRL
from nfkern.algorithms.agents.registry import AGENTS

SIZES = {
    **{"blocks": 2, "encoder_width": 32, "representation": 16, "hidden": (32, 32), "critic_hidden": (32, 32)},
    **{"diffusion_steps": 20, "sampling_steps": 20},
}
CAUSAL = {"flow": "causal", "causal_token": "number", "causal_blocks": 4, "causal_layers": 1, "causal_width": 16}
IMITATORS = [name for name, kind in AGENTS.items() if issubclass(kind, BehavioralCloning)]
OFFLINE_RL = [name for name, kind in AGENTS.items() if issubclass(kind, OfflineRL)]
OFFLINE_GCRL = [name for name, kind in AGENTS.items() if issubclass(kind, OfflineGCRL)]
OFFLINE = [name for name, kind in AGENTS.items() if issubclass(kind, Offline)]


def small(kind):
    """Return sizes of small networks, for those settings that an agent has."""
    config = kind.config_class
    return {name: min(size, getattr(config, name)) for name, size in SIZES.items() if hasattr(config, name)}


SMALL = {name: small(AGENTS[name]) for name in (*IMITATORS, *OFFLINE)}
SMALL |= {f"{name}_causal": SMALL[name] | CAUSAL for name in ("nf_bc", "nf_gcbc")}


def make_batch(config, rows=64, seed=0):
    rng = np.random.default_rng(seed)
    goals = rng.normal(size=(rows, 3)).astype(np.float32)
    shape = config.batches()
    observations = rng.normal(size=(rows, shape["history"] * 3)).astype(np.float32)
    actions = np.tanh(goals[:, :2]) * 0.5 + 0.05 * rng.normal(size=(rows, 2))
    return {
        "observations": observations,
        "actions": np.tile(actions, (1, shape["chunk"])).astype(np.float32),
        "goals": goals,
        "actor_goals": goals[::-1].copy(),
        "next_observations": rng.normal(size=observations.shape).astype(np.float32),
        "next_actions": rng.uniform(-1, 1, size=actions.shape).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "masks": rng.choice([0.0, 1.0], size=rows).astype(np.float32),
        "subgoals": rng.normal(size=(rows, 3)).astype(np.float32),
        "actor_subgoals": rng.normal(size=(rows, 3)).astype(np.float32),
    }


def make_agent(name, seed=0, **options):
    torch.manual_seed(seed)
    defaults = {"steps": 100, "warmup_steps": 5, "observation_normalization": "none", "learning_rate": 1e-3}
    agent = AGENTS[name.removesuffix("_causal")]
    config = agent.config_class(**(SMALL[name] | defaults | options))
    return agent.create(config, make_batch(config))


def act(agent, rows=5, seed=0):
    batch = make_batch(agent.config, rows)
    observations = batch["observations"].reshape(rows, agent.history, -1)
    generator = torch.Generator().manual_seed(seed)
    return agent.act(observations, batch["goals"] if agent.goal_conditioned else None, generator)
