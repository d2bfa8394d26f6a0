"""Works of training: gradient steps as a user takes them, by the package's own loop.

A run draws its batches from a dataset in memory, with hindsight goals or rewards, takes its steps, writes its metrics
and TensorBoard's events, validates once, and leaves a checkpoint. What is left out is the simulator.
"""

import csv
import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nfkern.algorithms.agents.config import AgentConfig
from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.data import TransitionDataset
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training.loop import Interrupted
from nfkern.algorithms.training.offline import train
from nfkern.bench.core.cases import DataCase
from nfkern.bench.core.declarations import Builder, Implementation, Mode, Precision
from nfkern.bench.problems.data_works import DataProblem, DataSampling

STEPS = 200
"""Of a run: starting one takes some hundredths of that."""

GOAL_CONDITIONED = ("nf_gcbc", "gaussian_gcbc", "flow_matching_gcbc", "diffusion_gcbc")
OFFLINE_RL = ("nf_rlbc", "fql", "ifql", "iql", "rebrac", "diffusion_ql")

# Whose observations and actions have the sizes of the synthetic data; its simulator is never asked.
_ENV_NAME = "antmaze-medium-navigate-v0"


@dataclass(frozen=True)
class RunProblem:
    """A dataset on disk.

    Attributes:
        folder: of the dataset and of runs; it goes when the problem does.
        batch: of gradient steps.
        device: for training.
    """

    case: DataCase
    batch: int
    folder: Path
    dataset: TransitionDataset
    device: str
    inputs: tuple[tuple[()], ...] = ((),)
    parameters: int = 0


class TrainingRun:
    """`STEPS` gradient steps on `batch` transitions each."""

    mode: Mode = "training"
    device = None

    def __init__(self, name: str) -> None:
        self.name = name

    def context(self) -> AbstractContextManager[None]:
        """Training is what is measured."""
        return nullcontext()

    def prepare(self, case: DataCase, batch: int, device: torch.device) -> RunProblem:
        """The dataset of `data_sampling` with random rewards, as files."""
        folder = Path(tempfile.mkdtemp(prefix="nfkern-bench-"))
        sampled: DataProblem = DataSampling().prepare(case, batch, device)
        dataset, generator = sampled.dataset, np.random.default_rng(0)
        columns = {
            "observations": dataset.observations,
            "actions": generator.uniform(-1, 1, dataset.actions.shape).astype(np.float32),
            "terminals": np.isin(np.arange(case.transitions), dataset.episode_ends),
            "rewards": -(generator.uniform(size=case.transitions) < 0.9).astype(np.float32),
            "masks": np.ones(case.transitions, np.float32),
        }
        for split in ("", "-val"):
            np.savez(folder / f"{_ENV_NAME}{split}.npz", allow_pickle=False, **columns)
        problem = RunProblem(case, batch, folder, dataset, device.type)
        weakref.finalize(problem, shutil.rmtree, folder, ignore_errors=True)
        return problem

    def check(self, problem: RunProblem, implementation: Implementation, precision: Precision) -> str | None:
        """Of a peer, of which there is none: algorithms differ."""
        return None


def _build(algorithm: str, problem: RunProblem) -> Implementation:
    run_dir, config = problem.folder / algorithm, _config(algorithm, problem)

    def run() -> Path:
        shutil.rmtree(run_dir, ignore_errors=True)
        settings = RunSettings(
            env_name=_ENV_NAME,
            dataset_dir=problem.folder,
            run_dir=run_dir,
            device=problem.device,
            # As in a run of full length.
            log_interval=1000,
            eval_episodes=0,
            quiet=True,
        )
        try:
            return train(algorithm, config, settings)
        except Interrupted:
            raise KeyboardInterrupt from None

    return Implementation(run, check=_wrong, parameters=_count_parameters(algorithm, problem))


def _config(algorithm: str, problem: RunProblem) -> AgentConfig:
    return AGENTS[algorithm].config_class(steps=STEPS, batch_size=problem.batch)


def _count_parameters(algorithm: str, problem: RunProblem) -> int:
    """Those that the optimiser moves: averages, targets among them, are copies."""
    zeros = np.zeros((1, problem.case.observation_size), np.float32)
    example = {"observations": zeros, "goals": zeros, "actions": np.zeros((1, problem.case.action_size), np.float32)}
    config, statistics = _config(algorithm, problem), problem.dataset.statistics()
    agent = AGENTS[algorithm].create(config, example, statistics)
    return sum(parameter.numel() for group in agent.optimizer.param_groups for parameter in group["params"])


def _wrong(implementation: Implementation) -> str | None:
    """Whether a run lacks steps, a finite loss or its checkpoint."""
    path = implementation()
    with (path / "train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if [int(row["step"]) for row in rows] != [STEPS] or not math.isfinite(float(rows[0]["training/actor/loss"])):
        return f"train.csv: expected {STEPS} steps with a finite loss, got {rows}"
    if not (path / "checkpoints" / f"{STEPS:08d}").is_dir():
        return f"checkpoints: expected one of step {STEPS}"
    return None


TRAINING_RUNS = (TrainingRun("goal_conditioned_run"), TrainingRun("offline_rl_run"))

BUILDERS: Mapping[str, Mapping[str, Builder]] = {
    algorithm: {work.name: partial(_build, algorithm)}
    for work, algorithms in zip(TRAINING_RUNS, (GOAL_CONDITIONED, OFFLINE_RL), strict=True)
    for algorithm in algorithms
}
"""By variant, which is an algorithm with its default settings."""
