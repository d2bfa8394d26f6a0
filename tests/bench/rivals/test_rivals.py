"""Rivals and floors: held to the gate, given the row's threads, skipped with a reason where they are not installed."""

import copy
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.bench_outcomes import CPU, altered, outcome, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from nfkern.bench.core import declarations
from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Implementation, Row, Variant
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.timing import SMOKE, num_threads
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.rivals import floors, jax_jit, onnxruntime, stacked
from nfkern.bench.runner import measure

pytestmark = pytest.mark.slow

# Compilers take seconds: one work each among the quick tests.
PEERS = [
    *(pytest.param(name, "inverse") for name in ("onnxruntime", "jax_jit")),
    *(
        pytest.param(name, work, marks=pytest.mark.exhaustive(part="rivals"))
        for name in ("onnxruntime", "onnxruntime_one_sweep", "jax_jit")
        for work in VARIANTS[name].builders
        if work != "inverse"
    ),
]
PROC = Path("/proc/self/task")
two_cores = pytest.mark.skipif(
    not PROC.exists() or len(os.sched_getaffinity(0)) < 2, reason="needs two cores and Linux's view of threads"
)


@pytest.mark.parametrize(("name", "work"), PEERS)
def test_peers_pass_the_gate(name, work):
    record = outcome(VARIANTS[name], work)
    assert record.error is None
    assert record.quantiles.repeats >= 2


def test_jax_passes_the_gate_with_its_weights_as_constants():
    assert outcome(VARIANTS["jax_jit"], "inverse", batch=1).error is None


@pytest.mark.parametrize(("name", "work"), PEERS)
def test_peers_with_one_wrong_weight_are_refused(name, work):
    builder = VARIANTS[name].builders[work]

    def build(problem):
        flow = copy.deepcopy(problem.flow)
        with torch.no_grad():
            flow.output_weight[-1, 1, -1, 0] += 0.1
        return builder(replace(problem, flow=flow))

    record = outcome(replace(VARIANTS[name], builders={work: build}), work)
    assert record.quantiles is None
    assert "exceeds the derived tolerance" in record.error


@pytest.mark.parametrize("standing", ["same_size", "floor"])
def test_only_variants_with_other_results_bring_a_check(standing):
    unchecked = replace(VARIANTS["nfkern"], standing=standing)
    assert "a check of its own belongs to" in outcome(unchecked, "inverse").error
    plain = replace(VARIANTS["nfkern"], standing="plain")
    assert outcome(plain, "inverse").error is None
    lenient = altered(VARIANTS["nfkern"], "inverse", lambda built: replace(built, check=lambda it: None))
    assert "a check of its own belongs to" in outcome(lenient, "inverse").error


@pytest.mark.parametrize(
    ("name", "module"),
    [
        *(("onnxruntime", module) for module in ("onnx", "onnxscript", "onnxruntime")),
        ("onnxruntime_one_sweep", "onnxruntime"),
        ("jax_jit", "jax"),
        ("jax_jit", "optax"),
        *((name, name.partition("_")[0]) for name in ("zuko", "zuko_nsf", "nflows", "normflows")),
    ],
)
def test_rivals_that_are_not_installed_are_skipped_with_the_reason(name, module, monkeypatch):
    monkeypatch.setattr(declarations, "find_spec", lambda wanted: None if wanted == module else object())
    work = next(iter(VARIANTS[name].builders))
    (record,) = measure(Row(WORKS[work], CASES["tiny"], 4, 1, (VARIANTS[name],)), CPU, current_environment(CPU), SMOKE)
    assert (record.error, record.quantiles) == (None, None)
    assert record.skipped == f"needs the module {module}"


def test_the_registry_does_not_import_rivals():
    code = (
        "import sys, nfkern.bench.registry; "
        "print({'jax', 'optax', 'onnxruntime', 'onnx', 'zuko', 'nflows', 'normflows'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def seconds_by_thread():
    """CPU time of each of this process's threads."""
    found = {}
    for thread in os.listdir(PROC):
        try:
            found[thread] = int((PROC / thread / "schedstat").read_text().split()[0]) / 1e9
        except OSError:
            continue
    return found


def busy_threads(call, seconds=0.3):
    """How many threads share in the work: a tenth of it at least."""
    call()
    before, end = seconds_by_thread(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        call()
    spent = [after - before.get(thread, 0.0) for thread, after in seconds_by_thread().items()]
    return sum(part > 0.1 * sum(spent) for part in spent)


@two_cores
@pytest.mark.parametrize("threads", [2, 1])
def test_xla_computes_on_the_rows_threads(threads):
    jax = pytest.importorskip("jax")
    allowed = os.sched_getaffinity(0)
    jax_jit.start_client(threads)
    x = jax.numpy.ones((1024, 1024))
    product = jax.jit(lambda x: x @ x)
    busy = busy_threads(lambda: product(x).block_until_ready())
    # The caller takes a share of what the pool does, and any of the pool's threads the others.
    assert busy == 1 if threads == 1 else busy >= threads
    assert os.sched_getaffinity(0) == allowed
    assert all(os.sched_getaffinity(int(thread)) == allowed for thread in os.listdir(PROC))


@pytest.mark.parametrize("work", VARIANTS["jax_jit"].builders)
def test_every_work_in_jax_starts_a_client_of_the_rows_threads(work, monkeypatch):
    pytest.importorskip("jax")
    started, start = [], jax_jit.start_client
    monkeypatch.setattr(jax_jit, "start_client", lambda threads: (started.append(threads), start(1)))
    problem = WORKS[work].prepare(tiny(work), 1, CPU)
    with num_threads(3):
        VARIANTS["jax_jit"].builders[work](problem)
    assert started == [3]


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime_one_sweep"])
def test_every_session_of_onnx_runtime_has_the_rows_threads(name, monkeypatch):
    pytest.importorskip("onnxruntime")
    asked = []

    def session(model, example, threads):
        asked.append(threads)
        return SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name=name) for name in ("x", "context")])

    monkeypatch.setattr(onnxruntime, "session", session)
    for work, builder in VARIANTS[name].builders.items():
        problem = WORKS[work].prepare(tiny(work), 1, CPU)
        with num_threads(3):
            builder(problem)
    assert set(asked) == {3}


def test_xla_refuses_more_threads_than_cpus():
    pytest.importorskip("jax")
    with pytest.raises(RuntimeError, match="cannot be given 10000 threads"):
        jax_jit.start_client(10_000)


@two_cores
@pytest.mark.parametrize("threads", [2, 1])
def test_onnx_runtime_computes_on_the_rows_threads_and_rests_afterwards(threads):
    for module in VARIANTS["onnxruntime"].requires:
        pytest.importorskip(module)
    x = torch.ones(1024, 1024)
    session = onnxruntime.session(torch.nn.Linear(1024, 1024), (x,), threads)
    feed = {session.get_inputs()[0].name: x.numpy()}
    assert busy_threads(lambda: session.run(None, feed)) == threads
    before = time.process_time()
    time.sleep(0.05)
    assert time.process_time() - before < 0.01


class Products(TorchDispatchMode):
    """Counts the multiply-adds of matrix products."""

    def __init__(self):
        super().__init__()
        self.multiply_adds = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.mm:
            self.multiply_adds += len(args[0]) * args[1].numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("work", "passes"), [("inverse", 1), ("denoised_action", 2), ("training_step", 3)])
def test_the_floor_of_products_multiplies_what_the_flow_multiplies(work, passes):
    problem = WORKS[work].prepare(CASES["tiny"], 4, CPU)
    weights = ("input_weight", "context_weight", "hidden_weight", "output_weight")
    expected = 4 * sum(getattr(problem.flow, name).numel() for name in weights)
    with Products() as counted:
        floors.GEMM_BUILDERS[work](problem).calls(problem.inputs)[0]()
    # Once while building, which makes the outputs.
    assert counted.multiply_adds == 2 * passes * expected


def test_the_floor_of_reading_reads_every_parameter():
    problem = WORKS["inverse"].prepare(CASES["tiny"], 1, CPU)
    for parameter in problem.flow.parameters():
        flow = copy.deepcopy(problem.flow)
        for own, copied in zip(problem.flow.parameters(), flow.parameters(), strict=True):
            if own is parameter:
                copied.data.view(-1)[-1] = 1e30
        (largest,) = floors.READING_BUILDERS["inverse"](replace(problem, flow=flow))(*problem.inputs[0])
        assert largest == torch.tensor(1e30).view(torch.int32)


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.standing == "floor"])
def test_floors_are_measured(name):
    record = outcome(VARIANTS[name], "inverse")
    assert record.error is None
    assert record.quantiles.repeats >= 2


@pytest.mark.parametrize("work", ["denoised_action", "training_step", "causal_inverse", "causal_training_step"])
def test_floors_multiply_where_the_flow_is(work):
    problem = WORKS[work].prepare(CASES["causal_tiny" if "causal" in work else "tiny"], 4, CPU)
    inputs = tuple(tuple(each.to("meta") for each in pair) for pair in problem.inputs)
    elsewhere = replace(problem, flow=problem.flow.to("meta"), inputs=inputs)
    products = floors.GEMM_BUILDERS[work](elsewhere)(*inputs[0])
    assert {product.device.type for product in products} == {"meta"}


def test_arguments_are_made_before_the_clock_starts():
    made = []
    implementation = Implementation(
        lambda x: x + 1, arguments=lambda x: (made.append(x) or 10 * x,), result=lambda x: -x
    )
    calls = implementation.calls([(1,), (2,)])
    assert made == [1, 2]
    assert [call() for call in calls] == [11, 21]
    assert made == [1, 2]
    assert implementation(3) == -31


def test_a_peer_of_another_package_may_use_its_own_arrays():
    def build(problem):
        built = stacked.inverse(problem)
        return Implementation(
            lambda x, context: built.run(torch.from_numpy(x), torch.from_numpy(context)),
            arguments=lambda *pair: tuple(part.numpy() for part in pair),
        )

    assert outcome(Variant("numpy", "", {"inverse": build}), "inverse").error is None
