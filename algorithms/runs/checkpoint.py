"""A checkpoint: the agent, and everything else that the rest of its run depends on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_numpy_file
from safetensors.numpy import save_file as save_numpy_file
from safetensors.torch import save_file

from nfkern.algorithms.agents.base import Agent
from nfkern.algorithms.agents.registry import load_agent, save_agent
from nfkern.checkpoint import read_tensors
from nfkern.host.files import atomic_folder, read_json


@dataclass(frozen=True)
class Checkpoint:
    """A folder in a run's checkpoints/, named by the gradient steps taken."""

    path: Path

    @property
    def step(self) -> int:
        """Gradient steps taken so far."""
        return int(self.path.name)

    @property
    def description(self) -> dict[str, Any]:
        """The agent's config.json: its algorithm, settings and sizes."""
        return read_json(self.path / "config.json")

    @property
    def label(self) -> str:
        """A name for the policy that another policy cannot have: algorithm, step and a hash of the weights."""
        digest = hashlib.sha256((self.path / "agent.safetensors").read_bytes()).hexdigest()[:12]
        return f"{self.description['algorithm']} {self.path.name} {digest}"

    def save(
        self,
        agent: Agent,
        sampler_states: Mapping[str, Any],
        generator: torch.Generator = torch.default_generator,
        arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ) -> None:
        """Write everything that the rest of the run depends on.

        Args:
            agent: with its optimiser and schedule.
            sampler_states: JSON-able states of the batch samplers.
            generator: of the loss's randomness.
            arrays: more to keep, by the name of a file.
        """
        optimizer = agent.optimizer.state_dict()
        tensors = {
            f"optimizer.{index}.{name}": value
            for index, entry in optimizer["state"].items()
            for name, value in entry.items()
        }
        tensors[f"rng.{generator.device.type}"] = generator.get_state()
        state = {
            "step": self.step,
            "param_groups": optimizer["param_groups"],
            "scheduler": agent.scheduler.state_dict(),
            "samplers": dict(sampler_states),
        }
        with atomic_folder(self.path) as folder:
            save_agent(agent, folder)
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "training.safetensors"
            )
            for name, kept in (arrays or {}).items():
                save_numpy_file(dict(kept), folder / f"{name}.safetensors")
            (folder / "training.json").write_text(json.dumps(state))

    def restore(
        self, device: torch.device, generator: torch.Generator = torch.default_generator
    ) -> tuple[Agent, dict[str, Any]]:
        """Restore agent, optimiser, schedule and the generator's state; return the agent and the samplers' states."""
        agent = load_agent(self.path, device)
        state = read_json(self.path / "training.json")
        entries: dict[int, dict[str, torch.Tensor]] = {}
        random_states = {}
        for key, tensor in read_tensors(self.path / "training.safetensors").items():
            kind, *rest = key.split(".")
            if kind == "optimizer":
                entries.setdefault(int(rest[0]), {})[rest[1]] = tensor
            else:
                random_states[rest[0]] = tensor
        agent.optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
        agent.scheduler.load_state_dict(state["scheduler"])
        if generator.device.type in random_states:
            generator.set_state(random_states[generator.device.type])
        return agent, state["samplers"]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays that `save` kept under a name."""
        return dict(load_numpy_file(self.path / f"{name}.safetensors"))
