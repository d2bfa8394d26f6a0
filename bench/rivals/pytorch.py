"""The naive flow and the stacked reference in PyTorch's forms."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from nfkern.bench.core.declarations import Implementation, Variant
from nfkern.bench.problems.calls import ACTING, CAUSAL, ENCODED, FLOWS
from nfkern.bench.problems.eager import EagerFlow
from nfkern.bench.problems.encoded import behind_encoder
from nfkern.bench.problems.flow_problem import FlowProblem
from nfkern.bench.rivals import forms
from nfkern.bench.rivals.forms import Make, builders
from nfkern.bench.rivals.models import ReferenceFlow, SplitReferenceFlow, behind
from nfkern.bench.works.control_loop import ControlProblem, looped, naive_loop
from nfkern.bench.works.flow_works import naive
from nfkern.bench.works.plane_works import in_chunks


def _eager_loop(problem: ControlProblem) -> Implementation:
    return Implementation(naive_loop(problem.encoder, problem.flow))


def _loop(make: Make, form: Callable[..., Callable[..., torch.Tensor]], problem: ControlProblem) -> Implementation:
    """The flow behind its encoder, in one graph."""
    flow: Any = make(problem.flow).requires_grad_(False)
    action = form(behind(problem.encoder, flow), problem.example)
    return Implementation(looped(action, lambda rows: torch.randn(rows, problem.flow.features)))


def _eager_candidates(problem: FlowProblem) -> Implementation:
    """The context is repeated for every point."""
    flow = EagerFlow.like(problem.flow)
    return in_chunks(lambda x, context: flow.log_prob(x, context.expand(len(x), -1)))


def _compiled_candidates(problem: FlowProblem) -> Implementation:
    """The shared context is projected once in a chunk."""
    density = forms.compile_whole(ReferenceFlow(problem.flow).requires_grad_(False).log_prob)
    return in_chunks(lambda x, context: density(x, context[None]))


EAGER = Variant(
    "eager",
    "naive flow, a module per block, eager PyTorch",
    {
        **builders(forms.eager, naive, (*FLOWS, *ENCODED, *CAUSAL)),
        "control_loop": _eager_loop,
        "candidate_log_prob": _eager_candidates,
    },
)
REFERENCE = Variant(
    "reference_compile",
    "the stacked reference under torch.compile",
    {
        **builders(forms.compiled, ReferenceFlow, FLOWS),
        **builders(forms.compiled, behind_encoder(ReferenceFlow), ENCODED),
        "control_loop": partial(_loop, ReferenceFlow, lambda module, example: forms.compile_whole(module)),
        "candidate_log_prob": _compiled_candidates,
    },
    compiles=True,
)
REFERENCE_BF16 = Variant(
    "reference_compile_bf16",
    "the stacked reference under torch.compile, hidden products in bf16",
    builders(forms.compiled, partial(ReferenceFlow, compute_dtype=torch.bfloat16), FLOWS),
    precision="bf16",
    compiles=True,
)

VARIANTS = (
    EAGER,
    Variant(
        "eager_plu_once",
        "the naive flow, matrices composed beforehand",
        builders(forms.eager, EagerFlow.composed, ACTING),
    ),
    Variant(
        "eager_compile",
        "the naive flow under torch.compile",
        builders(forms.compiled, naive, (*FLOWS, *ENCODED, *CAUSAL)),
        compiles=True,
    ),
    REFERENCE,
    replace(REFERENCE_BF16, builders={work: REFERENCE_BF16.builders[work] for work in ACTING}),
    Variant(
        "reference_max_autotune",
        'the stacked reference under torch.compile, mode "max-autotune", frozen for inference',
        {
            **builders(forms.max_autotuned, SplitReferenceFlow, ACTING),
            **builders(forms.max_autotuned, ReferenceFlow, ("training_step",)),
        },
        compiles=True,
    ),
    Variant(
        "eager_plu_once_max_autotune",
        "the naive flow, matrices composed beforehand, in the same way",
        builders(forms.max_autotuned, EagerFlow.composed, ACTING),
        compiles=True,
    ),
    Variant(
        "reference_aot_inductor",
        "the stacked reference compiled ahead of time by AOTInductor, autotuned and frozen",
        {
            **builders(forms.aot_inductor, SplitReferenceFlow, ACTING),
            "control_loop": partial(_loop, SplitReferenceFlow, lambda module, example: forms.packaged(module, example)),
        },
        compiles=True,
    ),
    Variant(
        "eager_plu_once_aot_inductor",
        "the naive flow, matrices composed beforehand, in the same way by AOTInductor",
        builders(forms.aot_inductor, EagerFlow.composed, ACTING),
        compiles=True,
    ),
    Variant(
        "reference_cuda_graph",
        "the stacked reference under torch.compile, captured as a CUDA graph",
        builders(forms.captured, ReferenceFlow, FLOWS),
        compiles=True,
        device="cuda",
    ),
)
