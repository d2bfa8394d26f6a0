"""The agents by name, and one of them on disk."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.goals.gciql import GCIQL
from nfkern.algorithms.agents.goals.gcivl import GCIVL
from nfkern.algorithms.agents.goals.hiql import HIQL
from nfkern.algorithms.agents.goals.offline_crl import OfflineCRL
from nfkern.algorithms.agents.goals.qrl import QRL
from nfkern.algorithms.agents.imitation.diffusion_bc import DiffusionBC
from nfkern.algorithms.agents.imitation.diffusion_gcbc import DiffusionGCBC
from nfkern.algorithms.agents.imitation.flow_matching_bc import FlowMatchingBC
from nfkern.algorithms.agents.imitation.flow_matching_gcbc import FlowMatchingGCBC
from nfkern.algorithms.agents.imitation.gaussian_bc import GaussianBC
from nfkern.algorithms.agents.imitation.gaussian_gcbc import GaussianGCBC
from nfkern.algorithms.agents.imitation.nf_bc import NFBC
from nfkern.algorithms.agents.imitation.nf_gcbc import NFGCBC
from nfkern.algorithms.agents.offline.diffusion_ql import DiffusionQL
from nfkern.algorithms.agents.offline.fql import FQL
from nfkern.algorithms.agents.offline.ifql import IFQL
from nfkern.algorithms.agents.offline.iql import IQL
from nfkern.algorithms.agents.offline.nf_rlbc import NFRLBC
from nfkern.algorithms.agents.offline.rebrac import ReBRAC
from nfkern.algorithms.agents.online.crl import CRL
from nfkern.algorithms.agents.online.nf_ugs import NFUGS
from nfkern.checkpoint import FORMAT_VERSION, read_tensors
from nfkern.host.files import read_json, write_json

AGENTS: dict[str, type[Agent]] = {
    agent.name: agent
    for agent in (
        *(NFBC, NFGCBC, GaussianBC, GaussianGCBC, FlowMatchingBC, FlowMatchingGCBC, DiffusionBC, DiffusionGCBC),
        *(NFRLBC, FQL, IFQL, IQL, ReBRAC, DiffusionQL),
        *(GCIQL, GCIVL, HIQL, QRL, OfflineCRL),
        *(NFUGS, CRL),
    )
}


def save_agent(agent: Agent, folder: Path) -> None:
    """Write an agent into an existing folder: `config.json` and `agent.safetensors`, normalisers included."""
    header = {
        "format_version": FORMAT_VERSION,
        "algorithm": agent.name,
        "config": asdict(agent.config),
        "sizes": agent.sizes,
    }
    write_json(folder / "config.json", header)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in agent.state_dict().items()},
        folder / "agent.safetensors",
    )


def load_agent(folder: str | Path, device: torch.device | str = "cpu") -> Agent:
    """Restore an agent from `save_agent`'s folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a newer format, an unknown algorithm, or missing or unknown weights.
    """
    folder = Path(folder)
    header = read_json(folder / "config.json")
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"folder: expected format_version {FORMAT_VERSION}, got {header.get('format_version')!r} in {folder}"
        )
    agent_class = AGENTS.get(header["algorithm"])
    if agent_class is None:
        raise ValueError(f"folder: expected an algorithm of {', '.join(AGENTS)}, got {header['algorithm']!r}")
    # JSON has no tuples, and settings are compared when a run is resumed.
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in header["config"].items()
    }
    agent = agent_class(agent_class.config_class(**settings), **header["sizes"])
    tensors = read_tensors(folder / "agent.safetensors")
    if "action_low" not in tensors:
        tensors |= _former_bounds(tensors, agent.config.action_normalization)
    try:
        agent.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"folder: weights in {folder} do not fit: {error}") from None
    return agent.to(device)


def _former_bounds(tensors: Mapping[str, torch.Tensor], mode: str) -> dict[str, torch.Tensor]:
    """The bounds of an agent from before these were kept: [-1, 1], normalised where that is the data's range."""
    center, scale = (tensors[f"action_normalizer.{name}"] for name in ("center", "scale"))
    reach = scale * (math.inf if mode == "standard" else 1.0)
    return {"action_low": center - reach, "action_high": center + reach}
