"""Calls captured as CUDA graphs and replayed: at small batches, launching kernels one by one takes most of the time.

A graph reads and writes fixed memory: a call copies its inputs there, replays, and copies the results out. Random
numbers are drawn outside, and are inputs.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch

from nfkern.flows.flow import Map

Tensors = tuple[torch.Tensor, ...]
Function = Callable[..., Tensors]
Capture = Callable[[Function, Tensors], tuple[Callable[[], None], Tensors]]


_capturing = threading.Lock()
"""Held by who captures, for captures of a device share a stream."""


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a device that is warmed up and captured on.

    It is one for all captures, because cuBLAS keeps a workspace for each stream that it has ever run on.
    """
    return torch.cuda.Stream(device)


def capture_cuda(function: Function, inputs: Tensors) -> tuple[Callable[[], None], Tensors]:
    """Capture `function(*inputs)`; return the replay, and the tensors that it fills.

    References:
        PyTorch, "CUDA graphs", https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """
    with _capturing, torch.cuda.device(inputs[0].device):
        # Lazy set-up (libraries' handles, Triton's compilation) must be over before the capture, on a side stream.
        current, side = torch.cuda.current_stream(), side_stream(inputs[0].device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):
                function(*inputs)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # PyTorch's default capture stream belongs to whichever device was captured on first; this one is ours.
        # thread_local: other threads may pin memory meanwhile, for example.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            outputs = function(*inputs)
    return graph.replay, outputs


class CapturedCall:
    """One function at one set of shapes; calls from several threads and streams take turns.

    Args:
        function: from tensors to tensors; reads no data on the host.
        inputs: tensors of the right shapes, dtypes and device; cloned.
        capture: how to capture.
    """

    def __init__(self, function: Function, inputs: Tensors, capture: Capture = capture_cuda) -> None:
        self._lock = threading.Lock()
        # Tensors made in inference mode cannot be written outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._inputs = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs)
            self._replay, self._outputs = capture(function, self._inputs)
        self._done = torch.cuda.Event() if inputs[0].is_cuda else None

    def matches(self, inputs: Tensors) -> bool:
        """Whether inputs have the shapes, dtypes and device of those captured."""
        return len(inputs) == len(self._inputs) and all(
            given.dtype == static.dtype and given.device == static.device and given.shape == static.shape
            for given, static in zip(inputs, self._inputs, strict=True)
        )

    @torch.no_grad()
    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        """Replay on these inputs; the results are the caller's own."""
        with self._lock:
            stream = None if self._done is None else torch.cuda.current_stream(inputs[0].device)
            if self._done is not None:
                # Another stream may still be at work in the same memory.
                self._done.wait(stream)
            for static, given in zip(self._inputs, inputs, strict=True):
                static.copy_(given)
            self._replay()
            results = tuple(output.clone() for output in self._outputs)
            if self._done is not None:
                self._done.record(stream)
            return results


class CapturedCalls:
    """Captured calls by map and number of rows. Copies are empty, also from a pickle."""

    def __init__(self, capture: Capture = capture_cuda, device_type: str = "cuda") -> None:
        self._capture = capture
        self._device_type = device_type
        self._calls: dict[tuple[Map, int], CapturedCall] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (CapturedCalls, (self._capture, self._device_type))

    def add(self, which: Map, function: Function, inputs: Tensors) -> None:
        """Capture `function` for inputs of these shapes, (rows, ...) each; without a GPU, call it once."""
        if inputs[0].device.type != self._device_type:
            function(*inputs)
            return
        self._calls[which, inputs[0].shape[0]] = CapturedCall(function, inputs, self._capture)

    def replay(self, which: Map, events: Any, context: Any, event_rank: int = 1) -> Tensors | None:
        """Results of the captured call of a map, if there is one for such inputs, else None.

        Events (*batch, *event) and context (*batch, C) may have any batch shape, if it is the same.
        """
        if torch.compiler.is_compiling() or not self._calls or not isinstance(events, torch.Tensor):
            return None
        if events.ndim < event_rank:
            return None
        given, ranks = ((events,), (event_rank,)) if context is None else ((events, context), (event_rank, 1))
        batch = events.shape[:-event_rank]
        pairs = list(zip(given, ranks, strict=True))
        if not all(isinstance(tensor, torch.Tensor) and tensor.shape[:-rank] == batch for tensor, rank in pairs):
            return None
        call = self._calls.get((which, batch.numel()))
        if call is None:
            return None
        rows = tuple(tensor.reshape(-1, *tensor.shape[-rank:]) for tensor, rank in pairs)
        # Inside someone else's capture a replay is an error, and the plain call is right.
        if not call.matches(rows) or (events.is_cuda and torch.cuda.is_current_stream_capturing()):
            return None
        return tuple(result.reshape([*batch, *result.shape[1:]]) for result in call(*rows))
