"""torch.compile in mode "max-autotune": of the stacked reference, and of the naive flow with its matrices composed.

Weights are frozen where they are constants.

On a CPU the mode times ATen's products against templates in C++, which it has for products with a constant weight and
for batches of products without an addend; weights are constants only to a compiler that freezes (an option of
Inductor's, for inference), which also packs and folds them beforehand. The conditioners' products add their biases,
so ATen computes these whatever the mode. They are called from C++ (`cpp_wrapper`), not from Python. On a GPU the mode
times templates in Triton, and replays CUDA graphs, which a wrapper in C++ would rule out; not run there so far.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import _inductor as inductor
from torch.utils._pytree import tree_map

from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.flow_problem import FlowProblem
from nfkern.bench.rivals import eager_plu_once
from nfkern.bench.rivals.compiled import reference_training_step
from nfkern.bench.rivals.exporting import outside_inference_mode
from nfkern.bench.rivals.reference_flow import INFERENCE_WORKS, SplitReferenceFlow

QUIET = {"autotune_num_choices_displayed": 0, "max_autotune_report_choices_stats": False}


def compile_autotuned(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The mode by its options, since torch.compile takes either a mode or options; without its tables of timings."""
    on_cpu = device.type == "cpu"
    options = inductor.list_mode_options("max-autotune-no-cudagraphs" if on_cpu else "max-autotune")
    return torch.compile(function, dynamic=False, fullgraph=True, options={**options, **QUIET, "cpp_wrapper": on_cpu})


def inference(problem: FlowProblem, work: str) -> Implementation:
    """A work of acting."""
    return _frozen(getattr(SplitReferenceFlow(problem.flow), work), problem)


def _frozen(function: Callable[..., Any], problem: FlowProblem) -> Implementation:
    """Compiled here: what freezes reads its switch while it traces the first call."""
    compiled = compile_autotuned(function, problem.inputs[0][0].device)
    with inductor.config.patch(freezing=True):
        compiled(*problem.inputs[0])
    return Implementation(compiled, result=copied)


@outside_inference_mode
def plu_once(problem: FlowProblem, method: str) -> Implementation:
    """A method of the naive flow with fixed mixings."""
    return _frozen(getattr(eager_plu_once.fixed_flow(problem).requires_grad_(False), method), problem)


@outside_inference_mode
def plu_once_action(problem: FlowProblem) -> Implementation:
    """Its denoised action."""
    return _frozen(eager_plu_once.traced_action(problem), problem)


def training_step(problem: FlowProblem) -> Implementation:
    """The step of `reference_compile` in this mode; weights that change cannot be frozen."""
    built = reference_training_step(problem, compiler=partial(compile_autotuned, device=problem.inputs[0][0].device))
    return Implementation(built.run, built.gradients, result=copied)


def copied(results: Any) -> Any:
    """Results that the next call leaves alone: a CUDA graph's lie in memory that each replay overwrites."""
    return tree_map(torch.clone, results)


BUILDERS: Mapping[str, Builder] = {
    **{work: partial(inference, work=work) for work in INFERENCE_WORKS},
    "training_step": training_step,
}

PLU_ONCE_BUILDERS: Mapping[str, Builder] = {
    "log_prob": partial(plu_once, method="log_prob"),
    "inverse": partial(plu_once, method="to_data"),
    "denoised_action": plu_once_action,
}
