"""The stacked reference exported, compiled ahead of time by AOTInductor, and loaded again: what one would deploy.

Weights are constants of the package, frozen, and products are chosen as by mode "max-autotune", without its CUDA
graphs, which packages do not have. The loader is called as C++ would call it: the loaded model's own call reads two
descriptions of its arguments anew each time.
"""

import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import _inductor as inductor
from torch import nn

from nfkern.bench.baselines.exporting import Forward, outside_inference_mode
from nfkern.bench.baselines.max_autotune import QUIET
from nfkern.bench.baselines.reference_flow import INFERENCE_WORKS, ReferenceFlow
from nfkern.bench.declarations import Builder, Implementation
from nfkern.bench.flow_problem import FlowProblem


def load_compiled(model: nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    """The loader of the model's package, for inputs of the example's shapes.

    The package lies in a folder that is gone when this returns. The loader has unpacked it into one of its own, which
    it removes when it is dropped.
    """
    options = {**inductor.list_mode_options("max-autotune-no-cudagraphs"), **QUIET, "freezing": True}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        package = str(Path(folder) / "model.pt2")
        inductor.aoti_compile_and_package(
            torch.export.export(model, example), package_path=package, inductor_configs=options
        )
        return inductor.aoti_load_package(package).loader


@outside_inference_mode
def inference(problem: FlowProblem, work: str) -> Implementation:
    """A work of acting."""
    flow = ReferenceFlow(problem.flow)
    loader = load_compiled(Forward(flow, getattr(flow, work)).eval(), problem.inputs[0])

    def run(*inputs: torch.Tensor) -> Any:
        results = loader.run(inputs)
        return results[0] if len(results) == 1 else results

    return Implementation(run)


BUILDERS: Mapping[str, Builder] = {work: partial(inference, work=work) for work in INFERENCE_WORKS}
