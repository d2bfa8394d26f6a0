"""The benchmarks: works, variants and suites, by name. A new baseline or kernel is a new line here.

To add a variant, write its builders in `baselines/` (one function per work, from the problem to an `Implementation`),
add a `Variant` below, and name it in the suites' declarations.

Notes, prediction against measurement (`bench/results/quick-cpu-2026-11-24.json`: AMD EPYC without AVX-512, one thread,
fp32, torch 2.13; nfkern on its reference backend; medians in ms):

- inverse, batch 1: eager 5.2, matrices composed beforehand 3.7, eager compiled 3.2, nfkern 3.1, the stacked reference
  compiled 1.8. Bound by dispatch, as predicted: stacking brings little more than composing once, and what the compiler
  takes off the reference is what a native kernel can take off at once.
- denoised_action: batch 1 eager 15.6, composed beforehand 13.1, nfkern 5.6; batch 256 84, 85 and 54. The one sweep is
  the reference backend's largest gain, as predicted.
- inverse and log_prob, batch 256: eager 27 and 24, nfkern 33 and 31. Predicted to be level, measured a quarter slower.
  A block's products and passes, timed alone, add up to 17 ms for six blocks: the rest is still to be found.
- training_step, batch 256: eager 98, eager compiled 86, the reference compiled 77, nfkern 112. Predicted: little gain,
  because hidden units are computed again in the backward; measured: a loss, for that and for what is said above.
- data_sampling: a row loop 6.7, nfkern 0.147, which is 1.7 million transitions a second; 50 000 were asked for.
"""

from nfkern.bench.baselines import compiled, eager, eager_plu_once, frozen, sampling, stacked
from nfkern.bench.cases import BATCHES
from nfkern.bench.data_works import DataSampling
from nfkern.bench.declarations import Benchmark, Variant, Work
from nfkern.bench.flow_works import FLOW_WORKS

WORKS: dict[str, Work] = {work.name: work for work in (*FLOW_WORKS, DataSampling())}

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("eager", "naive flow, a module per block, eager PyTorch", eager.BUILDERS),
        Variant("eager_plu_once", "the naive flow, matrices composed beforehand", eager_plu_once.BUILDERS),
        Variant("eager_compile", "the naive flow under torch.compile", compiled.EAGER_BUILDERS, compiles=True),
        Variant(
            "reference_compile", "the stacked reference under torch.compile", compiled.REFERENCE_BUILDERS, compiles=True
        ),
        Variant("nfkern", "nfkern as a user calls it", {**stacked.BUILDERS, **sampling.NFKERN_BUILDERS}),
        Variant("nfkern_frozen", "nfkern frozen for acting", frozen.BUILDERS),
        Variant("nfkern_frozen_bf16", "nfkern frozen, hidden products in bf16", frozen.BF16_BUILDERS, precision="bf16"),
        Variant("row_loop", "sampling transitions one by one in Python", sampling.ROW_LOOP_BUILDERS),
    )
}

_UNCOMPILED = ("eager", "nfkern")
_FROZEN = ("nfkern", "nfkern_frozen", "nfkern_frozen_bf16")
_ACTING = ("eager", "eager_plu_once", *_FROZEN)
_FLOWS = ("eager", "eager_plu_once", "eager_compile", "reference_compile", *_FROZEN)
_TRAINING = ("eager", "eager_compile", "reference_compile", "nfkern")
_SAMPLERS = ("row_loop", "nfkern")
_INFERENCE = tuple(work.name for work in FLOW_WORKS if work.name != "training_step")

# Compiling one variant of a row takes 10-60 s (2026-11, two cores): the quick suite has two such rows.
_QUICK = (
    Benchmark("inverse", ("ogbench",), (1,), _FLOWS, threads=("one",)),
    Benchmark("inverse", ("ogbench",), (256,), _ACTING),
    Benchmark("log_prob", ("ogbench",), (1, 256), _ACTING),
    Benchmark("denoised_action", ("ogbench",), (1, 256), _ACTING),
    Benchmark("training_step", ("ogbench",), (256,), _TRAINING, threads=("one",)),
    Benchmark("data_sampling", ("synthetic_100k",), (256,), _SAMPLERS, threads=("one",)),
)

_FULL = (
    *(Benchmark(work, ("ogbench", "ogbench_jax", "chunked"), BATCHES, _FLOWS) for work in _INFERENCE),
    Benchmark("training_step", ("ogbench", "ogbench_jax", "chunked"), BATCHES, _TRAINING),
    *(Benchmark(work, ("ogbench_features_8", "ogbench_features_21"), (1, 256), _ACTING) for work in _INFERENCE),
    Benchmark("training_step", ("ogbench_features_8", "ogbench_features_21"), (1, 256), _UNCOMPILED),
    Benchmark("log_prob", ("goal_density",), BATCHES, _FLOWS),
    Benchmark("training_step", ("goal_density",), BATCHES, _TRAINING),
    Benchmark("data_sampling", ("synthetic_100k",), (256, 4096), _SAMPLERS, threads=("one",)),
)

_SMOKE = (
    *(Benchmark(work, ("tiny",), (1, 4), _ACTING, threads=("one",)) for work in _INFERENCE),
    Benchmark("training_step", ("tiny",), (1, 4), _UNCOMPILED, threads=("one",)),
    Benchmark("data_sampling", ("synthetic_tiny",), (16,), _SAMPLERS, threads=("one",)),
)

SUITES: dict[str, tuple[Benchmark, ...]] = {"smoke": _SMOKE, "quick": _QUICK, "full": _FULL}
