"""A gradient step as one CUDA graph: hundreds of small kernels for the price of one launch."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch

from nfkern.acting.cuda_graphs import side_stream
from nfkern.algorithms.agents.optimization import Info

Step = Callable[[], Info]
Capture = Callable[[Step, Sequence[torch.Generator]], Step]

# PyTorch's advice for libraries and autograd to set themselves up, and for the optimiser to have its state.
WARM_UP_STEPS = 3


class CapturedStep:
    """Runs a step as it is a few times, then captures it and replays it from then on.

    The warm-up steps are real ones: each call is one step of training, and the numbers drawn are the same whichever
    way it runs. The learning rate is the host's, as PyTorch's schedules compute it; it reaches the step through one
    number on the device, written before each call. Results live in memory that the next call overwrites.

    Args:
        step: one gradient step without the schedule; it must neither synchronise nor read host memory that changes.
        optimizer: what the step runs, fused, with one parameter group.
        generators: all random generators that the step draws from.
        capture: turns a step into its replay; `capture_cuda`, or something that a test can watch on a CPU.
    """

    def __init__(
        self,
        step: Step,
        optimizer: torch.optim.Optimizer,
        generators: Sequence[torch.Generator],
        capture: Capture | None = None,
    ) -> None:
        self._step, self._optimizer, self._generators = step, optimizer, generators
        self._capture = capture or capture_cuda
        self._rate = torch.zeros((), device=optimizer.param_groups[0]["params"][0].device)
        self._warm_up_left = WARM_UP_STEPS
        self._replay: Step | None = None

    def __call__(self) -> Info:
        """Take one step; what it returned, on the device."""
        # In stream order and without waiting: the number travels with the launch.
        self._rate.fill_(self._optimizer.param_groups[0]["lr"])
        if self._replay is None:
            if self._warm_up_left:
                self._warm_up_left -= 1
                with _side_stream(self._rate.device):
                    return self._with_rate()
            self._replay = self._capture(self._with_rate, self._generators)
        return self._replay()

    def _with_rate(self) -> Info:
        """The step, with the optimiser reading its learning rate from the device."""
        group = self._optimizer.param_groups[0]
        mine = {"lr": group["lr"], "capturable": group["capturable"]}
        group.update(lr=self._rate, capturable=True)
        try:
            return self._step()
        finally:
            group.update(mine)


def capture_cuda(step: Step, generators: Sequence[torch.Generator]) -> Step:
    """Capture a step in a CUDA graph; generators advance with each replay as they would with each step."""
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    # The stream that warmed up: PyTorch's own would belong to the first device, and keep a workspace of cuBLAS's.
    with torch.cuda.graph(graph, stream=side_stream(torch.device("cuda", torch.cuda.current_device()))):
        info = step()

    def replay() -> Info:
        graph.replay()
        return info

    return replay


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Run on another stream than the default one, as steps that are to be captured must."""
    if device.type != "cuda":
        yield
        return
    current, side = torch.cuda.current_stream(device), side_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)
