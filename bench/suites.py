"""The suites, by name: which works are measured at which cases and batches, by which variants."""

from nfkern.bench.core.cases import BATCHES, CASES
from nfkern.bench.core.declarations import Benchmark
from nfkern.bench.problems.calls import ACTING
from nfkern.bench.rivals import acting, policies
from nfkern.bench.works import training_runs

_UNCOMPILED = ("eager", "nfkern")
_FROZEN = ("nfkern", "nfkern_frozen", "nfkern_frozen_bf16")
_ACTING = ("eager", "eager_plu_once", *_FROZEN)
_FLOWS = ("eager", "eager_plu_once", "eager_compile", "reference_compile", "nfkern_reference", *_FROZEN)
# As far as compilers take it: compiling these takes a minute or two each, so the quick suite leaves them out.
_AUTOTUNED = (
    *("reference_max_autotune", "eager_plu_once_max_autotune"),
    *("reference_aot_inductor", "eager_plu_once_aot_inductor"),
)
_COMPILED = (*_FLOWS, *_AUTOTUNED, "reference_cuda_graph")
_TRAINING = ("eager", "eager_compile", "reference_compile", "nfkern_reference", "nfkern")
_COMPILED_TRAINING = (*_TRAINING, "reference_max_autotune", "reference_cuda_graph")

_LIBRARIES = ("zuko", "zuko_nsf", "nflows", "normflows")
_FLOORS = ("gemm", "gemm_bf16")
_READING = ("weights_read", "weights_read_bf16")

# Under five minutes on two cores, slow ones too. Compiling a variant takes 15-60 s (2026-11), so only the stronger of
# the two flows is compiled, in two rows; without AVX-512 torch.mm takes 0.35 s for the products in bf16; a second
# thread has nothing to do at batch 1. Every row has a rival that somebody tuned.
_QUICK_ACTING = ("eager", *_FROZEN)
_QUICK_RIVALS = ("onnxruntime", "jax_jit")
_QUICK_LIBRARIES = ("zuko", "nflows")
_QUICK_TRAINING = ("eager", "reference_compile", "nfkern_reference", "nfkern", "jax_jit", *_QUICK_LIBRARIES, "gemm")
_QUICK_INVERSE = (*_QUICK_RIVALS, *_QUICK_LIBRARIES)
_QUICK_SWEEP = (*_QUICK_ACTING, "onnxruntime_one_sweep", "jax_jit")
_QUICK = (
    Benchmark(
        "inverse", ("ogbench",), (1,), (*_QUICK_ACTING, "reference_compile", *_QUICK_INVERSE, *_READING), ("one",)
    ),
    Benchmark("inverse", ("ogbench",), (256,), (*_QUICK_ACTING, *_QUICK_INVERSE, "gemm")),
    Benchmark("log_prob", ("ogbench",), (1, 256), (*_QUICK_ACTING, *_QUICK_RIVALS), ("one",)),
    Benchmark("denoised_action", ("ogbench",), (1, 256), _QUICK_SWEEP, ("one",)),
    Benchmark("training_step", ("ogbench",), (256,), _QUICK_TRAINING, ("one",)),
)

# Beside everything that a user of a CPU could run instead, and beside what the machine can do. At batch 1 products are
# calls, and reading the weights is the floor; later it is no longer in sight.
_CPU_CASES = ("ogbench", "ogbench_jax", "chunked", "goal_density")


def _libraries(work: str, case: str) -> tuple[str, ...]:
    """Compiled for the paper's flow only: each takes half a minute to two minutes."""
    compiled = _LIBRARIES if work in ("log_prob", "inverse") else ("zuko", "nflows")
    return (*_LIBRARIES, *(f"{name}_compile" for name in compiled)) if case == "ogbench" else _LIBRARIES


def _beside_rivals(work: str, case: str, batches: tuple[int, ...], floors: tuple[str, ...]) -> Benchmark:
    exported = ("onnxruntime", *(("onnxruntime_one_sweep",) if work == "denoised_action" else ()))
    coarser = ("reference_compile_bf16",) if case == "ogbench" else ()
    variants = (*_FLOWS, *_AUTOTUNED, *coarser, *exported, "jax_jit", *_libraries(work, case), *floors)
    return Benchmark(work, (case,), batches, variants)


def _training(case: str) -> Benchmark:
    rivals = ("reference_max_autotune", "jax_jit", *_libraries("training_step", case), *_FLOORS)
    return Benchmark("training_step", (case,), (256,), (*_TRAINING, *rivals))


_CPU = (
    *(_beside_rivals(work, case, (1,), _READING) for work in ACTING for case in _CPU_CASES),
    *(_beside_rivals(work, case, BATCHES[1:], _FLOORS) for work in ACTING for case in _CPU_CASES),
    *(_beside_rivals(work, "ogbench", (65536,), _FLOORS) for work in ("inverse", "log_prob")),
    *(_training(case) for case in _CPU_CASES),
    Benchmark("encoded_training_step", ("ogbench",), (256,), (*_TRAINING, "jax_jit")),
)

_SHAPES = ("ogbench", "ogbench_jax", "chunked")
_FEATURES = ("ogbench_features_8", "ogbench_features_21")
_FULL = (
    *(Benchmark(work, _SHAPES, BATCHES, _COMPILED) for work in ACTING),
    Benchmark("training_step", _SHAPES, BATCHES, _COMPILED_TRAINING),
    *(Benchmark(work, _FEATURES, (1, 256), _ACTING) for work in ACTING),
    Benchmark("training_step", _FEATURES, (1, 256), _UNCOMPILED),
    Benchmark("log_prob", ("goal_density",), BATCHES, _COMPILED),
    Benchmark("training_step", ("goal_density",), BATCHES, _COMPILED_TRAINING),
    Benchmark("data_sampling", ("synthetic_100k",), (256, 4096), ("row_loop", "nfkern"), ("one",)),
    # Of a million points rivals take half a minute a call.
    Benchmark(
        "candidate_log_prob", ("goal_density",), (1 << 16,), ("eager", "reference_compile", "nfkern", "nfkern_tables")
    ),
    Benchmark("candidate_log_prob", ("goal_density",), (1 << 20,), ("nfkern_tables",)),
)

# Compiling the unrolled inverse takes minutes: at 256 tokens it is left out. Nor is it exported to ONNX, which would
# unroll it, too, unless one wrote the graph with ONNX's own loop by hand.
# Iterating takes as many times as long as it has iterations where products are at their peak: it is tried below that.
_CAUSAL_ACTING = ("eager", "eager_compile", "nfkern_reference", *_FROZEN, "jax_jit")
_CAUSAL_INVERSE = (*_CAUSAL_ACTING, "nfkern_jacobi")
_CAUSAL_LONGEST = tuple(name for name in _CAUSAL_ACTING if name != "eager_compile")
_CAUSAL_TRAINING = ("eager", "eager_compile", "nfkern_reference", "nfkern", "jax_jit", *_FLOORS)
_CAUSAL_LENGTHS = ("causal_2", "causal_4", "causal_8", "causal_32", "causal_256")
_CAUSAL = (
    Benchmark("causal_inverse", ("causal",), (1,), (*_CAUSAL_INVERSE, *_READING)),
    Benchmark("causal_inverse", ("causal",), (50,), (*_CAUSAL_INVERSE, *_FLOORS)),
    Benchmark("causal_inverse", ("causal",), BATCHES[2:], (*_CAUSAL_ACTING, *_FLOORS)),
    Benchmark("causal_inverse", _CAUSAL_LENGTHS[:-1], (1,), (*_CAUSAL_INVERSE, *_READING), ("one",)),
    Benchmark("causal_inverse", _CAUSAL_LENGTHS[-1:], (1,), (*_CAUSAL_LONGEST, *_READING), ("one",)),
    Benchmark("causal_log_prob", ("causal",), (1,), (*_CAUSAL_ACTING, "onnxruntime", *_READING)),
    Benchmark("causal_log_prob", ("causal",), BATCHES[1:], (*_CAUSAL_ACTING, "onnxruntime", *_FLOORS)),
    Benchmark("causal_training_step", ("causal",), (256,), _CAUSAL_TRAINING),
)

# What a robot could run instead. Unrolling a hundred steps of diffusion compiles for minutes.
_POLICIES = tuple(f"{head.name}{form}" for form in acting.HEAD_FORMS for head in policies.HEADS)
_ROBOT = (*_FROZEN, "nfkern_frozen_int8")
_FLOW_ACTING = ("eager", "reference_compile", "reference_aot_inductor", "onnxruntime_one_sweep", "jax_jit", *_ROBOT)
_CONTROL_LOOP = (
    Benchmark("control_loop", ("ogbench",), (1,), (*_FLOW_ACTING, *_POLICIES), ("one",)),
    Benchmark("control_loop", ("ogbench_jax", "chunked"), (1,), _FLOW_ACTING, ("one",)),
    Benchmark("control_loop_after_pause", ("ogbench",), (1,), (*_FLOW_ACTING, *_POLICIES), ("one",)),
    Benchmark("control_loop_evicted", ("ogbench",), (1,), _FLOW_ACTING, ("one",)),
)

# How time and memory grow, one number of a case at a time. Of a million rows one call takes half a minute.
_GROWING = ("eager", "nfkern", "nfkern_frozen", "jax_jit")
_GROWING_TRAINING = ("eager", "reference_compile", "nfkern_reference", "nfkern")
_GROWN = tuple(name for name in CASES if name.rsplit("_", 1)[0] in ("features", "blocks", "hidden"))
_SCALING = (
    Benchmark("inverse", ("ogbench",), tuple(4**power for power in range(9)), _GROWING, ("doubling",)),
    Benchmark("inverse", ("ogbench",), (1 << 20,), ("eager", "nfkern", "nfkern_frozen"), ("all",)),
    Benchmark("inverse", _GROWN, (1, 256), _GROWING, ("one",)),
    Benchmark("causal_inverse", ("causal", *_CAUSAL_LENGTHS), (1,), ("nfkern", "nfkern_frozen", "jax_jit"), ("one",)),
    Benchmark("training_step", ("ogbench",), (64, 256, 1024, 4096), _GROWING_TRAINING, ("doubling",), memory=True),
    Benchmark("training_step", _GROWN, (256,), ("eager", "nfkern"), ("one",), memory=True),
)

# Algorithms as a user trains them; of the models, training_step tells more.
_TRAINING_RUNS = (
    Benchmark("goal_conditioned_run", ("synthetic_100k",), (256,), training_runs.GOAL_CONDITIONED, ("all",)),
    Benchmark("offline_rl_run", ("synthetic_100k",), (256,), training_runs.OFFLINE_RL, ("all",)),
)

_SMOKE = (
    *(Benchmark(work, ("tiny",), (1, 4), _ACTING, ("one",)) for work in ACTING),
    Benchmark("training_step", ("tiny",), (1, 4), _UNCOMPILED, ("one",), memory=True),
    Benchmark("encoded_training_step", ("tiny",), (1, 4), _UNCOMPILED, ("one",)),
    Benchmark("control_loop", ("tiny",), (1, 4), ("eager", *_ROBOT), ("one",)),
    Benchmark("causal_inverse", ("causal_tiny",), (1, 4), ("eager", *_FROZEN, "nfkern_jacobi", "gemm"), ("one",)),
    Benchmark("causal_log_prob", ("causal_tiny",), (1, 4), ("eager", *_FROZEN, *_READING), ("one",)),
    Benchmark("causal_training_step", ("causal_tiny",), (1, 4), (*_UNCOMPILED, "gemm"), ("one",)),
    Benchmark("data_sampling", ("synthetic_tiny",), (16,), ("row_loop", "nfkern"), ("one",)),
    Benchmark("candidate_log_prob", ("tiny_plane",), (512,), ("eager", "nfkern", "nfkern_tables"), ("one",)),
)

SUITES: dict[str, tuple[Benchmark, ...]] = {
    "smoke": _SMOKE,
    "quick": _QUICK,
    "cpu": _CPU,
    "causal": _CAUSAL,
    "control-loop": _CONTROL_LOOP,
    "scaling": _SCALING,
    "training": _TRAINING_RUNS,
    "full": _FULL,
}

IN_WORDS = {
    "smoke": "to try the suite itself (seconds)",
    "quick": "the flow beside its strongest rivals (under five minutes on two cores)",
    "cpu": "everything a CPU could run instead (hours)",
    "causal": "the same for the autoregressive flow (hours)",
    "control-loop": "numpy to numpy beside other policies (an hour)",
    "scaling": "how time and memory grow with batch, features, blocks, width, length and threads (35 minutes)",
    "training": "gradient steps of the algorithms as a user takes them (15 to 25 minutes)",
    "full": "nfkern and PyTorch for longer (most of a day)",
}
"""What each suite compares, and how long it takes."""
