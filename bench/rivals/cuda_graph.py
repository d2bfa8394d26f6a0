"""`reference_compile`, its calls captured as CUDA graphs by hand: matrices composed beforehand, no launches left.

A training step is one graph: the composition of the matrices, forward, backward and AdamW. Not run on a GPU so far.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

from nfkern.acting.cuda_graphs import Capture, capture_cuda
from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.flow_problem import FlowProblem
from nfkern.bench.problems.training import AdamWStep
from nfkern.bench.rivals.compiled import REFERENCE_BUILDERS
from nfkern.bench.rivals.graphed import Graphed


def captured(problem: FlowProblem, builder: Builder, capture: Capture = capture_cuda) -> Implementation:
    """Return the implementation of `builder`, captured for the problem's inputs."""
    built = builder(problem)
    # A capture calls what it captures, and a training step's calls move the parameters.
    with built.run.undone() if isinstance(built.run, AdamWStep) else nullcontext():
        graphed = Graphed(built.run, problem.inputs[0], capture)
    return Implementation(graphed, built.gradients, result=graphed.copied)


BUILDERS: Mapping[str, Builder] = {
    work: partial(captured, builder=builder) for work, builder in REFERENCE_BUILDERS.items()
}
