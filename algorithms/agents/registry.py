"""All agents by name, their presets, and an agent on disk."""

import importlib
import math
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nfkern.algorithms.agents import listing
from nfkern.algorithms.agents.base import REGISTERED, Agent
from nfkern.algorithms.agents.config import Preset
from nfkern.algorithms.agents.policy import Policy
from nfkern.checkpoint import FORMAT_VERSION, read_tensors
from nfkern.errors import UserError
from nfkern.host.files import read_json, write_json

for _room in listing.ROOMS:
    _folder = importlib.import_module(f"nfkern.algorithms.agents.{_room}")
    for _module in pkgutil.iter_modules(_folder.__path__, f"{_folder.__name__}."):
        importlib.import_module(_module.name)
AGENTS: dict[str, type[Agent]] = {name: REGISTERED[name] for name in listing.summaries()}


def find_preset(algorithm: str, name: str) -> Preset:
    """Return a preset of an agent.

    Raises:
        UserError: no such preset.
    """
    presets = AGENTS[algorithm].presets
    if name not in presets:
        raise UserError(f"--preset: {algorithm} has {', '.join(presets)}, got {name!r}")
    return presets[name]


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


def load_policy(folder: str | Path) -> Policy:
    """Restore an agent from `save_agent`'s folder and freeze it for acting; errors as of `load_agent`."""
    return load_agent(folder).freeze()


def _former_bounds(tensors: Mapping[str, torch.Tensor], mode: str) -> dict[str, torch.Tensor]:
    """Return the bounds of an agent that was saved without: [-1, 1], or the data's range if that was normalised."""
    center, scale = (tensors[f"action_normalizer.{name}"] for name in ("center", "scale"))
    reach = scale * (math.inf if mode == "standard" else 1.0)
    return {"action_low": center - reach, "action_high": center + reach}
