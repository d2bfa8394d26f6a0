"""Offline datasets: generating, fetching, checking, loading and sampling them.

Loading and sampling need numpy, sampling on a device PyTorch. Generating needs the `rl` extra (ogbench, mujoco), in
worker processes alone.
"""

from .device_sampling import DeviceBatchSampler, DeviceDataset
from .goals import GoalSampling
from .manifest import DEFAULT_DATASET_DIR
from .sampling import BatchSampler
from .transitions import ColumnStatistics, DatasetStatistics, TransitionDataset

__all__ = [
    "DEFAULT_DATASET_DIR",
    "BatchSampler",
    "ColumnStatistics",
    "DatasetStatistics",
    "DeviceBatchSampler",
    "DeviceDataset",
    "GoalSampling",
    "TransitionDataset",
]
