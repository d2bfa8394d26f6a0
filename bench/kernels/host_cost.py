"""`python -m nfkern.bench.kernels.host_cost`: work of the host for a call on a GPU, on a machine without one.

Triton's own launcher runs, with a driver that only says what the GPU is, and kernels that are neither compiled nor run.
Tensors lie on the CPU, so memory is PyTorch's of the CPU, and the context's projection is computed there.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import triton.compiler
from torch.nn.functional import linear
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver

from nfkern.acting import base
from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.kernels.binaries import TARGETS
from nfkern.bench.kernels.kernel_launches import kernels_on_cpu
from nfkern.bench.problems.flow_problem import random_flow
from nfkern.flows import context, flow, native_calls


@contextmanager
def fake_gpu(target: str = "sm_90") -> Iterator[Counter[str]]:
    """Inside, ops on CPU tensors launch Triton kernels on a GPU that is not there; yields their launches by name.

    Triton must not have launched a kernel before, nor have been imported to interpret.
    """
    launched = Counter[str]()

    class NotCompiled(CompiledKernel):  # type: ignore[misc]
        def __init__(self, src: Any, **_: Any) -> None:
            self.src, self.name, self.packed_metadata = src, src.fn.__name__, None
            self.module = self.function = self
            self._run = lambda *_: launched.update([self.name])

    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: TARGETS[target],
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
        )
    )
    with (
        kernels_on_cpu(),
        patch.object(triton.compiler, "compile", NotCompiled),
        # What flows do on a CPU alone.
        patch.object(native_calls.NativeCalls, "run", lambda *_: None),
        patch.object(context, "linear", linear),
        patch.object(flow, "readable", lambda tensor: False),
        patch.object(base, "readable", lambda tensor: False),
    ):
        yield launched


def calls() -> dict[str, Callable[[], Any]]:
    """Return calls of the paper's flow for one row."""
    case = CASES["ogbench"]
    assert isinstance(case, FlowCase)
    whole = random_flow(case)
    frozen, z, given = whole.freeze(), torch.randn(1, 5), torch.randn(1, 64)
    return {
        "frozen inverse": lambda: frozen.to_data(z, given),
        "frozen denoised action": lambda: frozen.sample_denoised(0.1, (), given, noise=z),
        "inverse": torch.no_grad()(lambda: whole.to_data(z, given)),
    }


def functions_called(call: Callable[[], Any]) -> int:
    """Return how many functions, of Python and of C, a call calls."""
    events = Counter[str]()
    sys.setprofile(lambda frame, event, argument: events.update([event]))
    try:
        call()
    finally:
        sys.setprofile(None)
    return events["call"] + events["c_call"]


def cpu_seconds(call: Callable[[], Any], repeats: int = 500) -> float:
    """Return the least CPU time of a call."""
    found = []
    for _ in range(repeats):
        start = time.process_time_ns()
        call()
        found.append(time.process_time_ns() - start)
    return min(found) / 1e9


def main() -> None:
    """Print a line a call."""
    torch.set_num_threads(1)
    with fake_gpu() as launched:
        for name, call in calls().items():
            for _ in range(20):
                call()
            launched.clear()
            call()
            print(
                f"{name}: {launched.total()} launches, {functions_called(call)} function calls, "
                f"{cpu_seconds(call) * 1e6:.0f} us of the host"
            )


if __name__ == "__main__":
    main()
