"""The benchmarks: works, variants and suites, by name. A new baseline or kernel is a new line here.

To add a variant, write its builders in `baselines/` (one function per work, from the problem to an `Implementation`),
add a `Variant` below, and name it in the suites' declarations.

Notes on what the rows should show (prediction against measurement; measurements are to be taken on a quiet machine,
one thread first, since a second core adds little to any variant):

- inverse and log_prob at batch 1 are bound by dispatch: `eager` issues 216 operators, 96 of them to compose PLU.
  Prediction: `nfkern` on its reference backend gains from stacking, hoisting the context and composing once; the floor,
  one read of the weights, is further away than any of the variants here. Measured: not yet.
- denoised_action: `eager` walks the flow three times and keeps autograd's graph, `nfkern` once. Prediction: the largest
  gain of the reference backend at every batch. Measured: not yet.
- training_step at batch 256: bound by the products, 1.5 GFLOP a step forward and backward. Prediction: `eager_compile`
  takes a third off `eager`; the reference backend recomputes hidden units in its backward, one pass in four, so that
  it gains less than in inference. Measured: not yet.
- data_sampling: prediction: vectorised index arithmetic is more than ten times a loop over rows, and above 50 000
  transitions a second on one core. Measured: not yet.
"""

from nfkern.bench.baselines import compiled, eager, eager_plu_once, sampling, stacked
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
        Variant("row_loop", "sampling transitions one by one in Python", sampling.ROW_LOOP_BUILDERS),
    )
}

_UNCOMPILED = ("eager", "nfkern")
_ACTING = ("eager", "eager_plu_once", "nfkern")
_FLOWS = ("eager", "eager_plu_once", "eager_compile", "reference_compile", "nfkern")
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
