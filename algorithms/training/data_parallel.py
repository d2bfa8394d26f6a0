"""One run on several processes, as `torchrun` starts them: each takes its share of every batch.

    torchrun --nproc-per-node 2 -m nfkern train nf_gcbc ...

Every process draws the same batches and the same noise, and computes the loss of its own rows; gradients are averaged
by PyTorch's `DistributedDataParallel`. So the run is that of a single process up to rounding, wherever the loss is a
mean over rows; ReBRAC, diffusion Q-learning, GCIQL, QRL and offline CRL divide by the mean size of the critics' values,
which each process takes over its own rows, and offline CRL tells goals from those of its own rows alone. It is for
several GPUs, or several machines; on one CPU, threads do better.
"""

import contextlib
import datetime
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler

from nfkern.algorithms.agents.base import Agent, Batch
from nfkern.algorithms.agents.optimization import Info, LossAndInfo, Noise, Tensors
from nfkern.errors import UserError

# An evaluation by the first process keeps the others waiting.
PATIENCE = datetime.timedelta(days=2)
# Steps between two questions whether some process was told to stop.
STOP_INTERVAL = 20


class ProcessGroup:
    """The processes of a run, seen from one of them; a single one needs no communication.

    Attributes:
        rank: this process's number; the first, 0, logs, saves and evaluates.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Return whether this is the process that logs, saves and evaluates."""
        return self.rank == 0

    def agree(self, decide: Callable[[], int]) -> int:
        """Return the first process's decision.

        Raises:
            UserError: `decide` raised it there.
        """
        if self.size == 1:
            return decide()
        answer, problem = torch.zeros((), dtype=torch.int64), None
        if self.first:
            try:
                answer.fill_(decide())
            except UserError as error:
                answer.fill_(-1)
                problem = error
        answer = self._on_device(answer)
        distributed.broadcast(answer, 0)
        if problem is not None:
            raise problem
        if answer < 0:
            raise UserError("the first process refused to start; see its message")
        return int(answer)

    def stops(self, received: bool, step: int) -> bool:
        """Return whether a process was told to stop, alike in all; several exchange it every `STOP_INTERVAL` steps."""
        if self.size == 1:
            return received
        if step % STOP_INTERVAL:
            return False
        flag = self._on_device(torch.tensor(float(received)))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    def mean(self, info: Info) -> Info:
        """Return the metrics of the whole batch."""
        if self.size == 1:
            return info
        stacked = torch.stack(list(info.values()))
        distributed.all_reduce(stacked)
        return dict(zip(info, stacked / self.size, strict=True))

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor where the processes can exchange it: NCCL knows GPUs alone."""
        return tensor.cuda() if distributed.get_backend() == "nccl" else tensor


def started_processes() -> int:
    """Return the number of processes that `torchrun` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Connect the processes that `torchrun` started for as long as the context lasts; a single one without it."""
    size = started_processes()
    if size == 1:
        yield ProcessGroup()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield ProcessGroup(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Return whether this process is the first of those that `torchrun` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def local_device(device: torch.device) -> torch.device:
    """Return the process's own GPU, where CUDA was asked for without a number; else the device."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


class DataParallel:
    """An agent's gradient steps, each process taking its share of the rows.

    Args:
        agent: with the same weights in every process.
        processes: more than one; their number divides the batch size.
    """

    def __init__(self, agent: Agent, processes: ProcessGroup) -> None:
        self._agent, share = agent, agent.config.batch_size // processes.size
        self._rows = slice(processes.rank * share, (processes.rank + 1) * share)
        if agent.ema is not None:
            # Moved by `average`, never by a gradient.
            agent.ema.requires_grad_(False)
        # Buffers never change in training. PyTorch 2.13 has another name for what keeps them where they are.
        known = inspect.signature(DistributedDataParallel).parameters
        options: dict[str, Any] = {"forward_sync_buffers": False} if "forward_sync_buffers" in known else {}
        self._module = DistributedDataParallel(agent, **options or {"broadcast_buffers": False})
        self.optimizer: torch.optim.AdamW = agent.optimizer
        self.scheduler: lr_scheduler.LRScheduler = agent.scheduler

    def average(self) -> None:
        """`Agent.average`, alike in every process."""
        self._agent.average()

    def __call__(self, batch: Tensors, noise: Noise) -> LossAndInfo:
        """The loss of this process's rows."""
        loss, info = self._module(batch, noise)
        return loss, info

    def inputs(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensors, Noise]:
        """The process's own rows of `Agent.inputs`, whose numbers all processes draw alike."""
        tensors, noise = self._agent.inputs(batch, generator)
        return {key: tensor[self._rows] for key, tensor in tensors.items()}, tuple(each[self._rows] for each in noise)
