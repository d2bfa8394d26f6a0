"""`nfkern export` and `nfkern play`: trained policies as files for other runtimes, and such files in a simulator."""

import contextlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from nfkern.algorithms.acting import checkpoint_folder
from nfkern.algorithms.agents.registry import load_agent
from nfkern.algorithms.evaluation.evaluate import EnvironmentPool, evaluate
from nfkern.algorithms.evaluation.rollout import check_fits
from nfkern.algorithms.exporting import Format, OnnxPolicy, export, format_of
from nfkern.errors import UserError, check_least

_REMARKS = {"observations": ", oldest first", "noise": ", standard normal"}


@dataclass(frozen=True)
class Export:
    """Write a trained policy as one file that runs without nfkern: ONNX, PyTorch's export, or AOTInductor.

    Normalisers, denoising and clipping are inside: an observation, a goal and noise go in, actions in the data's units
    come out, for any number of rows. The file is written once thousands of random decisions agree with the policy's.
    """

    run_dir: tyro.conf.Positional[Path]
    """A run's folder, or that of one of its checkpoints."""
    out: tyro.conf.Positional[Path]
    """The file to write, such as policy.onnx or policy.pt2."""
    format: Format | None = None
    """Default onnx for .onnx and pt2 for .pt2; aoti is compiled for this machine and needs a C++ compiler."""
    step: int | None = None
    """Step of the run's checkpoint; default the newest."""

    def run(self) -> int:
        """Export, and say what the file takes and gives."""
        kind = format_of(self.out, self.format)
        agent = load_agent(checkpoint_folder(self.run_dir, self.step))
        print(f"exporting {agent.name} as {kind}; a causal flow takes longest", file=sys.stderr)
        description = export(agent, self.out, kind)
        print(f"{self.out} ({self.out.stat().st_size / 1e6:.1f} MB) agrees with the policy")
        for name, shape in description.inputs.items():
            print(f"  in   {name:<13} (n, {', '.join(map(str, shape))}) float32{_REMARKS.get(name, '')}")
        print(
            f"  out  {'actions':<13} (n, {description.chunk}, {description.action_size}) float32, in the data's units"
        )
        return 0


@dataclass(frozen=True)
class Play:
    """Run an exported ONNX policy in the simulator: episodes of each of the environment's tasks, and their success."""

    model: tyro.conf.Positional[Path]
    """A file of nfkern export."""
    env: str
    """Name of a dataset or environment, or any registered gymnasium id, as MODULE:ID where a module registers it."""
    episodes: int = 10
    """Episodes for each task."""
    seed: int = 0
    """Fixes starts, goals and noise."""
    max_episode_steps: int | None = None
    """End episodes after so many steps instead of the benchmark's own limit."""

    def run(self) -> int:
        """Play, and print the success."""
        check_least({"episodes": self.episodes, "max_episode_steps": self.max_episode_steps})
        policy = OnnxPolicy(self.model)
        with contextlib.closing(EnvironmentPool(self.env, max_episode_steps=self.max_episode_steps)) as pool:
            try:
                check_fits(pool, asdict(policy.description), goal_conditioned=policy.goal_conditioned)
                result = evaluate(policy, pool, episodes_per_task=self.episodes, seed=self.seed, label=self.model.name)
            except ValueError as error:
                raise UserError(str(error)) from None
        print(result.table(str(self.model)))
        return 0
