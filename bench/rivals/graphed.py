"""A call captured as a CUDA graph by hand, and what stands in for a capture where there are no graphs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from nfkern.acting.cuda_graphs import Capture, Tensors


class Graphed:
    """Inputs copied in, the graph replayed; the results stay in the graph's memory, where the next call writes.

    Args:
        run: from tensors to a tensor or a structure of tensors.
        inputs: of the shapes to come.
        capture: how to capture; it calls `run` a few times.
    """

    def __init__(self, run: Callable[..., Any], inputs: Tensors, capture: Capture) -> None:
        def flat(*given: torch.Tensor) -> Tensors:
            leaves, self._structure = tree_flatten(run(*given))
            return tuple(leaves)

        self.inputs = tuple(tensor.clone() for tensor in inputs)
        self.replay, self.outputs = capture(flat, self.inputs)

    def __call__(self, *inputs: torch.Tensor) -> Tensors:
        """Replay on these inputs; the results without their structure."""
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        self.replay()
        return self.outputs

    def copied(self, outputs: Tensors) -> Any:
        """A call's results as `run` gives them, in memory of their own."""
        return tree_unflatten([output.clone() for output in outputs], self._structure)


def call_again(function: Callable[..., Tensors], inputs: Tensors) -> tuple[Callable[[], None], Tensors]:
    """In the place of a capture: a replay is another call."""
    outputs = tuple(output.clone() for output in function(*inputs))

    def replay() -> None:
        for output, result in zip(outputs, function(*inputs), strict=True):
            output.copy_(result)

    return replay, outputs
