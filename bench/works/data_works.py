"""Works of data pipelines: batches of goal-conditioned transitions from a dataset in memory."""

from dataclasses import dataclass

import numpy as np
import torch

from nfkern.algorithms.data import TransitionDataset
from nfkern.bench.core.cases import DataCase
from nfkern.bench.core.declarations import Implementation, Precision, Work

GAMMA = 0.97
"""Goals lie Geometric(1 - GAMMA) steps ahead, as in the paper's NF-GCBC."""

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class DataProblem:
    """A dataset in which every row says where it is: column 0 of observations and of actions is the row's number."""

    case: DataCase
    batch: int
    dataset: TransitionDataset
    inputs: tuple[tuple[()], ...] = ((),)
    parameters: int = 0


class DataSampling(Work):
    """Random transitions with hindsight goals: observations, actions, next_observations, goals, rewards, masks.

    Samplers draw different rows, so the gate checks what holds for any draw: every transition is one of the dataset's,
    nothing crosses a trajectory's end, and goals lie ahead in the same trajectory, at offsets that vary.
    """

    name = "data_sampling"
    mode = "inference"
    device = "cpu"

    def prepare(self, case: DataCase, batch: int, device: torch.device) -> DataProblem:
        """The dataset, in the host's memory whatever the device."""
        generator = np.random.default_rng(0)
        rows = np.arange(case.transitions)
        observations = generator.standard_normal((case.transitions, case.observation_size), dtype=np.float32)
        actions = generator.standard_normal((case.transitions, case.action_size), dtype=np.float32)
        observations[:, 0] = actions[:, 0] = rows
        terminals = (rows + 1) % case.trajectory_length == 0
        terminals[-1] = True
        return DataProblem(case, batch, TransitionDataset(observations, actions, terminals, name=case.name))

    def check(self, problem: DataProblem, implementation: Implementation, precision: Precision) -> str | None:
        """Why a batch cannot have come from the dataset."""
        batches = [implementation.run() for _ in range(2)]
        for batch in batches:
            if reason := _impossible(problem, batch):
                return reason
        if np.array_equal(batches[0]["observations"], batches[1]["observations"]):
            return "observations: the same batch twice"
        return None


def _impossible(problem: DataProblem, batch: Batch) -> str | None:
    dataset, length, last = problem.dataset, problem.case.trajectory_length, len(problem.dataset.observations) - 1
    observation, action = (dataset.observation_size,), (dataset.action_size,)
    sizes = {**dict.fromkeys(("observations", "next_observations", "goals"), observation), "actions": action}
    for key, size in (sizes | {"rewards": (), "masks": ()}).items():
        if key not in batch or batch[key].shape != (problem.batch, *size) or batch[key].dtype != np.float32:
            return f"{key}: expected float32 of shape {(problem.batch, *size)}"
    rows, goals = (batch[key][:, 0].astype(int) for key in ("observations", "goals"))
    if not (np.isin(rows, np.arange(last + 1)).all() and (goals <= last).all()):
        return "observations: rows that are not in the dataset"
    sources = {
        "observations": dataset.observations[rows],
        "actions": dataset.actions[rows],
        "next_observations": dataset.observations[np.minimum(rows + 1, last)],
        "goals": dataset.observations[goals],
    }
    for key, expected in sources.items():
        if not np.array_equal(batch[key], expected):
            return f"{key}: not those of the dataset's transition"
    if (rows // length != (rows + 1) // length).any():
        return "next_observations: beyond the trajectory's end"
    if (goals <= rows).any() or (goals // length != rows // length).any():
        return "goals: not ahead in the same trajectory"
    return "goals: all at the same offset" if len(np.unique(goals - rows)) == 1 else None
