"""Every variant of every work before the gate, right and with a wrong weight; floors do what they stand for."""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from support.bench_outcomes import CPU, altered, outcome, tiny
from support.selected import selected
from torch.utils._python_dispatch import TorchDispatchMode

from nfkern.bench.core import declarations
from nfkern.bench.core.declarations import Implementation, Variant
from nfkern.bench.problems.calls import FLOWS
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.rivals import floors, jax_causal, onnxruntime, pytorch, sampling, stacked

pytestmark = pytest.mark.slow

EVERY = [
    (variant.name, work)
    for rival in (pytorch, stacked, onnxruntime, jax_causal, floors, sampling)
    for variant in rival.VARIANTS
    for work in variant.builders
]
# Tolerances of 16 bits are too wide for one weight.
PEERS = [
    (name, work)
    for name, work in EVERY
    if (VARIANTS[name].standing, VARIANTS[name].precision) == ("peer", "fp32") and work != "data_sampling"
]
# These take seconds: one work of each tool among the quick tests. Inductor takes up to a minute.
ONE_EACH = [("onnxruntime", "inverse"), ("jax_jit", "inverse")]


def taken(pairs):
    quick = [(name, work) for name, work in pairs if not VARIANTS[name].compiles and name != "jax_jit"]
    return selected(pairs, [*quick, *(pair for pair in ONE_EACH if pair in pairs)], part="rivals")


@pytest.mark.parametrize(("name", "work"), taken([pair for pair in EVERY if VARIANTS[pair[0]].device != "cuda"]))
def test_every_variant_passes_the_gate(name, work):
    record = outcome(VARIANTS[name], work)
    assert record.error is None, record.error
    assert record.quantiles.repeats >= 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.exhaustive(part="rivals")
@pytest.mark.parametrize(("name", "work"), [p for p in EVERY if VARIANTS[p[0]].compiles and p[1] in FLOWS])
def test_compiled_variants_pass_the_gate_on_a_gpu(name, work):
    if VARIANTS[name].device != "cpu":
        assert outcome(VARIANTS[name], work, device=torch.device("cuda")).error is None


def test_jax_passes_the_gate_with_its_weights_as_constants():
    assert outcome(VARIANTS["jax_jit"], "inverse", batch=1).error is None


@pytest.mark.parametrize(
    ("name", "work"),
    taken([pair for pair in PEERS if not VARIANTS[pair[0]].compiles or pair[0].startswith("onnxruntime")]),
)
def test_a_wrong_weight_is_refused(name, work):
    builder = VARIANTS[name].builders[work]

    def build(problem):
        # What the control loop adds to the flow is its encoder.
        part = "encoder" if work == "control_loop" else "flow"
        module = copy.deepcopy(getattr(problem, part))
        with torch.no_grad():
            # A training step with its encoder has the flow inside.
            weight = module[0].weight if part == "encoder" else getattr(module, "model", module).output_weight
            weight[-1].mul_(1.1).add_(0.01)
        return builder(replace(problem, **{part: module}))

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
        *(("jax_jit", module) for module in ("jax", "optax")),
        *((name, name.partition("_")[0]) for name in ("zuko", "zuko_nsf_compile", "nflows", "normflows")),
    ],
)
def test_rivals_that_are_not_installed_are_skipped_with_the_reason(name, module, monkeypatch):
    monkeypatch.setattr(declarations, "find_spec", lambda wanted: None if wanted == module else object())
    assert VARIANTS[name].not_supported_reasons(WORKS["inverse"], CPU) == [f"needs the module {module}"]


def test_the_registry_does_not_import_rivals():
    code = (
        "import sys, nfkern.bench.registry; "
        "print({'jax', 'optax', 'onnxruntime', 'onnx', 'zuko', 'nflows', 'normflows'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


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
    problem = WORKS[work].prepare(tiny(work), 4, CPU)
    weights = ("input_weight", "context_weight", "hidden_weight", "output_weight")
    expected = 4 * sum(getattr(problem.flow, name).numel() for name in weights)
    with Products() as counted:
        VARIANTS["gemm"].builders[work](problem).calls(problem.inputs)[0]()
    # Once while building, which makes the outputs.
    assert counted.multiply_adds == 2 * passes * expected


def test_the_floor_of_reading_reads_every_parameter():
    problem = WORKS["inverse"].prepare(tiny("inverse"), 1, CPU)
    for parameter in problem.flow.parameters():
        flow = copy.deepcopy(problem.flow)
        for own, copied in zip(problem.flow.parameters(), flow.parameters(), strict=True):
            if own is parameter:
                copied.data.view(-1)[-1] = 1e30
        (largest,) = VARIANTS["weights_read"].builders["inverse"](replace(problem, flow=flow))(*problem.inputs[0])
        assert largest == torch.tensor(1e30).view(torch.int32)


@pytest.mark.parametrize("work", ["denoised_action", "training_step", "causal_inverse", "causal_training_step"])
def test_floors_multiply_where_the_flow_is(work):
    problem = WORKS[work].prepare(tiny(work), 4, CPU)
    inputs = tuple(tuple(each.to("meta") for each in pair) for pair in problem.inputs)
    elsewhere = replace(problem, flow=problem.flow.to("meta"), inputs=inputs)
    products = VARIANTS["gemm"].builders[work](elsewhere)(*inputs[0])
    assert {product.device.type for product in products} == {"meta"}


def test_a_peer_of_another_package_may_use_its_own_arrays_made_before_the_clock_starts():
    made = []

    def build(problem):
        def arguments(*pair):
            made.append(pair)
            return tuple(part.numpy() for part in pair)

        return Implementation(
            lambda x, context: tuple(
                each.numpy() for each in problem.flow.to_data(*map(torch.from_numpy, (x, context)))
            ),
            arguments=arguments,
            result=lambda found: tuple(map(torch.from_numpy, found)),
        )

    assert outcome(Variant("numpy", "", {"inverse": build}), "inverse").error is None
    # Once for each set of inputs at the gate, once for timing.
    assert len(made) == 16
