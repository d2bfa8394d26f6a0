"""The stacked reference exported, compiled ahead of time by AOTInductor, and loaded again: what one would deploy.

The naive flow whose matrices were composed beforehand, too: its products are linear layers, for which Inductor has
templates in C++ (`max_autotune` says more). Its inverse is the faster of the two on a CPU (2026-11, `ogbench`, batches
1 and 256); its score is autograd's, a second pass.

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

from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.flow_problem import FlowProblem
from nfkern.bench.rivals import eager_plu_once
from nfkern.bench.rivals.exporting import Forward, outside_inference_mode
from nfkern.bench.rivals.max_autotune import QUIET
from nfkern.bench.rivals.reference_flow import INFERENCE_WORKS, SplitReferenceFlow


def load_compiled(model: nn.Module, example: tuple[torch.Tensor, ...], tuned: bool = True) -> Any:
    """The loader of the model's package, for inputs of the example's shapes.

    Without `tuned` weights are not frozen, and products are the default mode's: frozen ones are laid out anew for each
    product that they enter, so that ten steps through one network read ten copies.

    The package lies in a folder that is gone when this returns. The loader has unpacked it into one of its own, which
    it removes when it is dropped.
    """
    chosen = {**inductor.list_mode_options("max-autotune-no-cudagraphs"), "freezing": True} if tuned else {}
    options = {**chosen, **QUIET}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        package = str(Path(folder) / "model.pt2")
        inductor.aoti_compile_and_package(
            torch.export.export(model, example), package_path=package, inductor_configs=options
        )
        return inductor.aoti_load_package(package).loader


@outside_inference_mode
def reference(problem: FlowProblem, method: str) -> Implementation:
    """A method of the stacked reference."""
    flow = SplitReferenceFlow(problem.flow)
    return _implementation(problem, Forward(flow, getattr(flow, method)))


@outside_inference_mode
def plu_once(problem: FlowProblem, method: str) -> Implementation:
    """A method of the naive flow with fixed mixings."""
    flow = eager_plu_once.fixed_flow(problem).requires_grad_(False)
    return _implementation(problem, Forward(flow, getattr(flow, method)))


@outside_inference_mode
def plu_once_action(problem: FlowProblem) -> Implementation:
    """Its denoised action."""
    return _implementation(problem, eager_plu_once.traced_action(problem))


def _implementation(problem: FlowProblem, model: nn.Module) -> Implementation:
    loader = load_compiled(model.eval(), problem.inputs[0])

    def run(*inputs: torch.Tensor) -> Any:
        results = loader.run(inputs)
        return results[0] if len(results) == 1 else results

    return Implementation(run)


REFERENCE_BUILDERS: Mapping[str, Builder] = {work: partial(reference, method=work) for work in INFERENCE_WORKS}

PLU_ONCE_BUILDERS: Mapping[str, Builder] = {
    "log_prob": partial(plu_once, method="log_prob"),
    "inverse": partial(plu_once, method="to_data"),
    "denoised_action": plu_once_action,
}
