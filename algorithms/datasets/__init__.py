"""Offline datasets: generating, fetching, checking, loading and sampling them.

Loading and sampling need numpy only. Generating needs the `rl` extra (ogbench, mujoco), in worker processes alone.
"""

from .goals import GoalSampling
from .manifest import DEFAULT_DATASET_DIR
from .sampling import BatchSampler
from .transitions import ColumnStatistics, DatasetStatistics, TransitionDataset

__all__ = [
    "DEFAULT_DATASET_DIR",
    "BatchSampler",
    "ColumnStatistics",
    "DatasetStatistics",
    "GoalSampling",
    "TransitionDataset",
]
