"""Works and variants, by name. A new baseline or kernel is a new line here.

To add a variant, write its builders in `baselines/` (one function per work, from the problem to an `Implementation`),
add a `Variant` below, and name it in the declarations of `suites.py`. One that computes something else than the work's
results names its standing, and its implementations bring a check of their own.

Notes, prediction against measurement (`bench/results/cpu-2026-11-26.json`: AMD EPYC, Zen 4, one thread, fp32, torch
2.13, nfkern on its C++ kernels; medians):

- inverse, batch 1: predicted 48 us, the time in which the third cache gives the weights; measured 56 frozen, of which 4
  are Python and PyTorch and 44 are the floor. Eager 1130, the compiled reference 299, ONNX Runtime 138.
- inverse, chunked, batch 1, bf16: predicted 0.4 ms at the third cache's rate; measured 2.3, because the hardware does
  not foresee sixteen short rows side by side. Fetched ahead: 0.86 to 0.93.
- denoised_action, batch 1: predicted twice the inverse, because the second read of a block's weights comes from the
  second cache; measured 103 us against 424 of JAX, which differentiates.
- inverse, batch 256: predicted 4.3 ms at the product's own rate; measured 5.2, passes over the hidden units and the
  first layer taking the rest. With a product's stretches in the first cache, 4.9. JAX 6.2, torch.mm's products 6.7.
- inverse, chunked, batch 16 (not in the file): predicted 2.9 ms, measured 5.6: 24 rows of weights that lie 2 KiB apart
  evict each other from the first cache. Eight at a time: 3.3.
- training_step, batch 256: predicted 13 ms of products at the peak and 5 of all else. A first version took 24.5: a
  cycle count of each pass found the hidden weight's gradient at 65 % of the peak, waiting for its factors; autograd
  filling the kept units' gradient with zeros; memory mapped anew at each step; PLU in a dozen small calls. Mended,
  24.5 became 23.0; the fused AdamW for all flows made that 21.4, stretches and tiles 20.3.
- causal_inverse, batch 1 (`causal-cpu-2026-11-26.json`): predicted 4.1 ms, 377 MB at the third cache's rate; measured
  8.1, with sixteen rows side by side again. Row after row, 6.7: a block's first token finds its weights in memory, and
  fetching the next block's ahead cost more than that. Shared by two threads, predicted half, measured 3.9.
- causal_inverse, batch 32 (not in the file): predicted 51 ms of products at the peak, measured 73: weights 4 KiB apart
  evicted each other from the first cache. Copied tile by tile: 63.
- causal_training_step, batch 256: predicted 1.6 s of products; 2.5 at first, because the derivative multiplied again
  what the forward pass had. Kept: 2.1; with heads laid out once and memory that is not mapped anew: 1.86. Without
  AVX-512 (`causal-density-cpu-2026-11-27.json`) 3.44, of which torch.mm's products are 2.54; the eager flow, compiled,
  3.18.
- data_sampling: 85 us on an AMD EPYC without AVX-512 (not in a file), three million transitions a second.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from nfkern.bench.core.cases import FlowCase
from nfkern.bench.core.declarations import Standing, Variant, Work
from nfkern.bench.problems import control_loop, eager, eager_causal
from nfkern.bench.problems.data_works import DataSampling
from nfkern.bench.rivals import (
    acting,
    aot_inductor,
    compiled,
    compiled_causal,
    cuda_graph,
    eager_plu_once,
    floors,
    frozen,
    jax_acting,
    jax_causal,
    jax_jit,
    max_autotune,
    nflows,
    onnxruntime,
    policies,
    same_size,
    sampling,
    stacked,
    zuko,
)
from nfkern.bench.rivals.reference_flow import INFERENCE_WORKS
from nfkern.bench.works import plane_works, training_runs
from nfkern.bench.works.causal_works import CAUSAL_WORKS
from nfkern.bench.works.flow_works import FLOW_WORKS
from nfkern.bench.works.plane_works import CandidateDensities
from nfkern.bench.works.training_runs import TRAINING_RUNS

_ONNX = ("onnx", "onnxscript", "onnxruntime")

WORKS: dict[str, Work] = {
    work.name: work
    for work in (
        *FLOW_WORKS,
        *CAUSAL_WORKS,
        CandidateDensities(),
        control_loop.ControlLoop(),
        DataSampling(),
        *TRAINING_RUNS,
    )
}


def _libraries() -> Iterator[Variant]:
    """Flows of other packages, as they are and under torch.compile."""
    flows: tuple[tuple[str, str, Callable[[FlowCase], Any]], ...] = (
        ("zuko", "zuko's coupling flow of this size", zuko.zuko_flow),
        ("zuko_nsf", "zuko's neural spline flow of this size, couplings", zuko.zuko_nsf_flow),
        ("nflows", "nflows' coupling flow of this size", nflows.nflows_flow),
        ("normflows", "normflows' spline coupling flow of this size", nflows.normflows_flow),
    )
    for form, words in (("", ""), ("_compile", ", under torch.compile")):
        compiled = form != ""
        for name, summary, make in flows:
            works = same_size.builders(make, compiled)
            if compiled and name in ("zuko_nsf", "normflows"):
                # Of splines PyTorch 2.13 compiles wrong gradients for CPUs, off by up to 37 % of a tensor's largest.
                works = {work: works[work] for work in ("log_prob", "inverse")}
            yield Variant(
                name + form,
                summary + words,
                works,
                compiles=compiled,
                requires=(name.partition("_")[0],),
                standing="same_size",
            )


def _policies() -> Iterator[Variant]:
    """Every head in every form."""
    for form, (words, build) in acting.HEAD_FORMS.items():
        standing: Standing = "own_size" if form.endswith("_own_size") else "same_size"
        for head in policies.HEADS:
            works = {"control_loop": partial(build, head)}
            summary = f"{head.summary}, {words}"
            yield Variant(
                head.name + form, summary, works, compiles=form != "", requires=head.requires, standing=standing
            )


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            "eager",
            "naive flow, a module per block, eager PyTorch",
            {
                **eager.BUILDERS,
                **eager_causal.BUILDERS,
                "control_loop": control_loop.BUILDERS["eager"],
                "candidate_log_prob": plane_works.naive,
            },
        ),
        Variant("eager_plu_once", "the naive flow, matrices composed beforehand", eager_plu_once.BUILDERS),
        Variant(
            "eager_compile",
            "the naive flow under torch.compile",
            {**compiled.EAGER_BUILDERS, **compiled_causal.BUILDERS},
            compiles=True,
        ),
        Variant(
            "reference_compile",
            "the stacked reference under torch.compile",
            {
                **compiled.REFERENCE_BUILDERS,
                **acting.COMPILED_BUILDERS,
                "candidate_log_prob": plane_works.compiled,
            },
            compiles=True,
        ),
        Variant(
            "reference_compile_bf16",
            "the stacked reference under torch.compile, hidden products in bf16",
            {work: compiled.REFERENCE_BF16_BUILDERS[work] for work in INFERENCE_WORKS},
            precision="bf16",
            compiles=True,
        ),
        Variant(
            "reference_max_autotune",
            'the stacked reference under torch.compile, mode "max-autotune", frozen for inference',
            max_autotune.BUILDERS,
            compiles=True,
        ),
        Variant(
            "eager_plu_once_max_autotune",
            "the naive flow, matrices composed beforehand, in the same way",
            max_autotune.PLU_ONCE_BUILDERS,
            compiles=True,
        ),
        Variant(
            "reference_aot_inductor",
            "the stacked reference compiled ahead of time by AOTInductor, autotuned and frozen",
            {**aot_inductor.REFERENCE_BUILDERS, **acting.PACKAGE_BUILDERS},
            compiles=True,
        ),
        Variant(
            "eager_plu_once_aot_inductor",
            "the naive flow, matrices composed beforehand, in the same way by AOTInductor",
            aot_inductor.PLU_ONCE_BUILDERS,
            compiles=True,
        ),
        Variant(
            "reference_cuda_graph",
            "the stacked reference under torch.compile, captured as a CUDA graph",
            cuda_graph.BUILDERS,
            compiles=True,
            device="cuda",
        ),
        Variant(
            "nfkern",
            "nfkern as a user calls it",
            {
                **stacked.BUILDERS,
                **sampling.NFKERN_BUILDERS,
                "control_loop": control_loop.BUILDERS["nfkern"],
                "candidate_log_prob": plane_works.one_call,
            },
        ),
        Variant(
            "nfkern_tables",
            "nfkern by tables of the conditioners",
            {"candidate_log_prob": plane_works.tables},
            standing="tolerance",
        ),
        Variant(
            "nfkern_frozen",
            "nfkern frozen for acting",
            {**frozen.BUILDERS, "control_loop": control_loop.BUILDERS["nfkern_frozen"]},
        ),
        Variant(
            "nfkern_frozen_bf16",
            "nfkern frozen, hidden products in bf16",
            {**frozen.BF16_BUILDERS, "control_loop": control_loop.BUILDERS["nfkern_frozen_bf16"]},
            precision="bf16",
        ),
        Variant("nfkern_jacobi", "nfkern's inverse by Jacobi iteration", stacked.JACOBI_BUILDERS),
        Variant("nfkern_reference", "nfkern on its reference backend", stacked.REFERENCE_BUILDERS),
        Variant(
            "onnxruntime",
            "the naive flow, matrices composed beforehand, exported to ONNX Runtime",
            onnxruntime.BUILDERS,
            compiles=True,
            requires=_ONNX,
            device="cpu",
        ),
        Variant(
            "onnxruntime_one_sweep",
            "the stacked reference's one sweep, exported to ONNX Runtime",
            {**onnxruntime.ONE_SWEEP_BUILDERS, **acting.ONNX_BUILDERS},
            compiles=True,
            requires=_ONNX,
            device="cpu",
        ),
        Variant(
            "jax_jit",
            "the flow in JAX, jitted; optax's AdamW",
            {**jax_jit.BUILDERS, **jax_causal.BUILDERS, **jax_acting.BUILDERS},
            requires=("jax", "optax"),
            device="cpu",
        ),
        *_libraries(),
        Variant("weights_read", "reading the weights once", floors.READING_BUILDERS, standing="floor"),
        Variant(
            "weights_read_bf16",
            "reading the weights once in bf16",
            floors.READING_BF16_BUILDERS,
            precision="bf16",
            standing="floor",
        ),
        Variant("gemm", "the matrix products alone, by torch.mm", floors.GEMM_BUILDERS, standing="floor"),
        Variant(
            "gemm_bf16",
            "the matrix products alone in bf16",
            floors.GEMM_BF16_BUILDERS,
            precision="bf16",
            standing="floor",
        ),
        Variant("row_loop", "sampling transitions one by one in Python", sampling.ROW_LOOP_BUILDERS, standing="plain"),
        *(
            Variant(name, f"a run of {name}, its default settings", builders, standing="own_size")
            for name, builders in training_runs.BUILDERS.items()
        ),
        *_policies(),
    )
}
