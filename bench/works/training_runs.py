"""Works of training: gradient steps as a user takes them, by the package's own loop.

A run draws its batches from a dataset in memory, with hindsight goals or rewards, takes its steps, writes its metrics
and TensorBoard's events, validates once, and leaves a checkpoint. What is left out is the simulator.
"""

import csv
import math
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nfkern.algorithms.agents.config import AgentConfig
from nfkern.algorithms.agents.registry import AGENTS
from nfkern.algorithms.runs.settings import RunSettings
from nfkern.algorithms.training.loop import Interrupted
from nfkern.algorithms.training.offline import train
from nfkern.bench.core.cases import DataCase
from nfkern.bench.core.declarations import Implementation, Variant, Work
from nfkern.bench.works.data_works import DataProblem, DataSampling

STEPS = 200
"""Gradient steps of a run: starting one takes some hundredths of that."""

GOAL_CONDITIONED = ("nf_gcbc", "gaussian_gcbc", "flow_matching_gcbc", "diffusion_gcbc")
OFFLINE_RL = ("nf_rlbc", "fql", "ifql", "iql", "rebrac", "diffusion_ql")

# Whose observations and actions have the sizes of the synthetic data; its simulator is never asked.
_ENV_NAME = "antmaze-medium-navigate-v0"


@dataclass(frozen=True, kw_only=True)
class RunProblem(DataProblem):
    """A dataset on disk, in a folder of its own and of runs, which goes when the problem does; and where to train."""

    folder: Path
    device: str


class TrainingRun(Work):
    """`STEPS` gradient steps on `batch` transitions each."""

    mode = "training"

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, case: DataCase, batch: int, device: torch.device) -> RunProblem:
        """The dataset of `data_sampling` with random rewards, as files."""
        folder = Path(tempfile.mkdtemp(prefix="nfkern-bench-"))
        dataset, generator = DataSampling().prepare(case, batch, device).dataset, np.random.default_rng(0)
        columns = {
            "observations": dataset.observations,
            "actions": generator.uniform(-1, 1, dataset.actions.shape).astype(np.float32),
            "terminals": np.isin(np.arange(case.transitions), dataset.episode_ends),
            "rewards": -(generator.uniform(size=case.transitions) < 0.9).astype(np.float32),
            "masks": np.ones(case.transitions, np.float32),
        }
        for split in ("", "-val"):
            np.savez(folder / f"{_ENV_NAME}{split}.npz", allow_pickle=False, **columns)
        problem = RunProblem(case, batch, dataset, folder=folder, device=device.type)
        weakref.finalize(problem, shutil.rmtree, folder, ignore_errors=True)
        return problem


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

VARIANTS = tuple(
    Variant(
        algorithm,
        f"a run of {algorithm}, its default settings",
        {work.name: partial(_build, algorithm)},
        standing="own_size",
    )
    for work, algorithms in zip(TRAINING_RUNS, (GOAL_CONDITIONED, OFFLINE_RL), strict=True)
    for algorithm in algorithms
)
