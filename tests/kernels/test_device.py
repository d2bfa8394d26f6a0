"""Every op on a device against float64: `pytest tests/kernels/test_device.py --device cuda` for a GPU's kernels.

Without the option small problems run on the CPU, which also shows that wrong results are found.
"""

import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
from support import device_checks
from support.interpreted import interpreted_kernels

from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.kernels import gpu_check
from nfkern.bench.kernels.calls import CausalCalls, CouplingCalls, ExampleCalls, ops
from nfkern.bench.problems.flow_problem import random_causal_flow, random_flow
from nfkern.kernels import backend_reasons, registered_backends, use_reference

ROOT = Path(__file__).parents[2]
COMPILING_S = 150
"""Seconds for compiling ahead: few cores take minutes for all."""
CPU, TINY, CAUSAL = torch.device("cpu"), CASES["tiny"], CASES["causal_tiny"]
SMALL = [
    (CouplingCalls(TINY, 6, 2, 0.5, 2), ("ieee", "bf16")),
    (CouplingCalls(TINY, 1), ("ieee",)),
    (CausalCalls(CAUSAL, 6, 2, True, 0.5), ("ieee", "bf16")),
    *((example, ("ieee",)) for example in ExampleCalls.of_all_ops()),
]
WITHOUT_TRITON = ["causal_flow_to_latent_backward", "linear"]
"""On a GPU flows call PyTorch's own product; the causal flow's derivative has no kernel anywhere."""
MAPS = ("to_latent", "to_data", "to_data_with_score", "to_latent_backward")
OPS = [*(f"coupling_{name}" for name in (*MAPS, "to_data_backward")), *(f"causal_flow_{name}" for name in MAPS)]


def pytest_generate_tests(metafunc):
    on_gpu = metafunc.config.getoption("device") != "cpu"
    if "checked" in metafunc.fixturenames:
        problems = list(device_checks.problems()) if on_gpu else SMALL
        metafunc.parametrize("checked", problems, ids=[problem.name for problem, _ in problems])
    if "graphed" in metafunc.fixturenames:
        problems = list(device_checks.graph_problems())
        metafunc.parametrize("graphed", problems, ids=[problem.name for problem in problems])


def changed(name, change):
    """The ops, one of them with other results."""

    def call(called, *args):
        results = ops(called, *args)
        return change(*results) if called == name else results

    return call


def warm_cache(each):
    """Returns nothing: a compiled kernel cannot be sent from one process to another."""
    from nfkern.bench.kernels.binaries import warm_up

    warm_up(each)


def compile_ahead(pool, compile_one, chosen, seconds):
    """One that does not compile, or not in time, fails or delays the tests that launch it, and no others."""
    wait([pool.submit(compile_one, each) for each in chosen], timeout=seconds)
    pool.shutdown(cancel_futures=True)


def run_sanitizer(command, environment, seconds):
    """Exit code and output of a command that is ended, with all that it started, when its time is over."""
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, stdout=pipe, stderr=both, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # The Python that it runs, too, which would share the GPU with the tests that follow.
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"not done after {seconds:g} s")
    return process.returncode, output


@pytest.fixture(scope="session")
def gpu(device):
    """The device, with the kernels compiled on all cores: tests would compile one after the other."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    from nfkern.bench.kernels.kernel_launches import compilations, target_of

    chosen = compilations(device_checks.problems(), target_of(device))
    # Each process takes some 0.5 GB of the device for its context.
    with ProcessPoolExecutor(min(16, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        compile_ahead(pool, warm_cache, chosen, COMPILING_S)
    return device


def test_every_op_runs_its_kernel(device):
    """The rest would otherwise compare the reference with itself."""
    for name, backend in registered_backends(device).items():
        if name not in (WITHOUT_TRITON if device.type == "cuda" else ["causal_flow_to_latent_backward"]):
            assert backend == "native", (name, backend_reasons(name, device))


def test_every_op_equals_float64_within_its_tolerance(checked, device, request):
    if device.type == "cuda":
        request.getfixturevalue("gpu")
    problem, arithmetics = checked
    assert list(device_checks.check(problem, arithmetics, device)) == []


def test_graphs_replay_on_fresh_inputs(graphed, gpu):
    from nfkern.acting.cuda_graphs import capture_cuda

    assert list(device_checks.check_graphs(graphed, ("ieee", "bf16"), gpu, capture_cuda)) == []


def test_more_rows_than_32_bits_reach(gpu):
    if torch.cuda.mem_get_info(gpu)[0] < 40 << 30:
        pytest.skip("needs 40 GiB of free memory on the GPU")
    assert list(device_checks.check_addresses(1 << 20, 1 << 16, gpu)) == []
    torch.cuda.empty_cache()


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(tool, gpu):
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        pytest.skip("needs compute-sanitizer")
    checks = (
        "from support.device_checks import *\n"
        "for calls in (CouplingCalls(CASES['tiny'], 7), CausalCalls(CASES['causal_tiny'], 7)):\n"
        "    assert not list(check(calls, ('ieee',), torch.device('cuda')))\n"
    )
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", checks]
    # Without PyTorch's pool, every tensor has bounds that the tool can see.
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": path}
    code, output = run_sanitizer(command, environment, 90)
    assert code == 0, output[-2000:]


LISTED = [
    *((calls, arithmetics) for calls, arithmetics in SMALL),
    # Odd numbers of blocks, features and seeds: pointers that are not aligned.
    (CouplingCalls(CASES["tiny"], 3, seeds=3), ("ieee", "tf32", "bf16", "fp16")),
    (CouplingCalls(CASES["ogbench"], 600), ("ieee", "bf16")),
    (CausalCalls(CASES["causal_2"], 2), ("ieee", "tf32", "bf16", "fp16")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("calls", "arithmetics"), LISTED, ids=[calls.name for calls, _ in LISTED])
def test_the_list_of_kernels_is_what_the_checks_launch(calls, arithmetics):
    """On tensors with data, whose addresses decide about kernels, as those without do."""
    from nfkern.bench.kernels.kernel_launches import compilation, compilations, launches_of

    launched = launches_of(lambda: list(device_checks.check(calls, arithmetics, CPU)))
    assert {compilation(each, None).key for each in launched} == {
        each.key for each in compilations([(calls, arithmetics)])
    }
    assert launched or calls.name.partition(" ")[0] in WITHOUT_TRITON


@functools.cache
def compiled_for_checks(shape):
    from nfkern.bench.kernels.kernel_launches import compilations

    checked = ((c, ("ieee", "bf16")) for c, _ in device_checks.problems() if getattr(c, "case", None) == CASES[shape])
    return {each.key for each in compilations(checked)}


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "rows"), dict.fromkeys((shape, rows) for _, shape, rows in gpu_check.ROWS))
def test_timings_launch_no_kernel_that_the_checks_have_not_compiled(shape, rows):
    from nfkern.bench.kernels.kernel_launches import compilation, launches_of

    flow = (random_causal_flow if shape == "causal" else random_flow)(CASES[shape])
    x = torch.empty(rows, *flow.event_shape, device="meta")
    context = torch.empty(rows, flow.context_features, device="meta")

    def timed():
        for dtype in (torch.float32, torch.bfloat16):
            with torch.no_grad():
                frozen = flow.freeze(dtype).to("meta")
                frozen.to_data(x, context), frozen.log_prob(x, context)
                frozen.sample_denoised(0.1, (), context, noise=x)
        whole = flow.to("meta")
        whole.to_data(x, context), whole.sample_denoised(0.1, (), context, noise=x)
        whole(x, context).mean().backward()

    launched = launches_of(timed)
    assert {compilation(each, None).key for each in launched} <= compiled_for_checks(shape)
    assert launched


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("arithmetic", ["ieee", "bf16"])
def test_an_error_in_any_op_is_found(name, arithmetic):
    calls = CouplingCalls(TINY, 9) if name.startswith("coupling") else CausalCalls(CAUSAL, 9)
    wrong = changed(name, lambda first, *rest: (first * 1.5, *rest))
    found = list(device_checks.check(calls, (arithmetic,), CPU, wrong))
    named = name.removeprefix("coupling_").removeprefix("causal_flow_")
    assert any(line.startswith(f"{calls.name} {arithmetic}: {named} ") for line in found), found


@pytest.mark.parametrize("example", ExampleCalls.of_all_ops(), ids=lambda example: example.name)
def test_an_error_in_any_example_is_found(example):
    wrong = changed(example.name.partition(" ")[0], lambda first, *rest: (first * 1.01 + 1e-3, *rest))
    assert list(device_checks.check(example, ("ieee",), CPU, wrong))


@pytest.mark.exhaustive(part="targets")
def test_the_interpreted_causal_kernels_pass():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: the compiled kernels run")
    with interpreted_kernels():
        assert list(device_checks.check(CausalCalls(CAUSAL, 4, 2, True, 0.5), ("ieee", "fp16"), CPU)) == []


@pytest.mark.exhaustive(part="targets")
def test_the_interpreted_kernels_pass_and_an_error_in_one_does_not():
    """Not in bfloat16, whose products Triton's interpreter gets wrong."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: the compiled kernels run")
    calls = CouplingCalls(FlowCase("micro", 3, 2, (16, 20), blocks=2), 2, 1, bound=2.0)
    wrong = changed("coupling_to_data_backward", lambda x, term, *rest: (x, term.roll(1, -1), *rest))
    with interpreted_kernels():
        assert list(device_checks.check(calls, ("ieee", "fp16"), CPU)) == []
        (found,) = device_checks.check(calls, ("ieee",), CPU, wrong)
    assert "to_data_backward grad of term: error" in found


def test_a_wrong_gradient_of_a_parameter_is_found_in_16_bits():
    wrong = changed("coupling_to_latent_backward", lambda *grads: (*grads[:3], *(grad * 1.5 for grad in grads[3:])))
    found = list(device_checks.check(CouplingCalls(TINY, 9), ("bf16",), CPU, wrong))
    assert len(found) == 9
    assert all("in norm exceeds" in line for line in found)


def test_reading_uninitialised_memory_is_found():
    careless = changed("coupling_to_latent", lambda z, *rest: (torch.where(torch.empty(1).isnan(), z + 1, z), *rest))
    found = list(device_checks.check(CouplingCalls(TINY, 4), ("ieee",), CPU, careless))
    assert found == ["tiny-4 ieee: to_latent z: a second run, in memory filled with NaN, gives other bits"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_graph_that_keeps_its_first_inputs_is_found():
    def stale(function, inputs):
        return (lambda: None), tuple(output.clone() for output in function(*inputs))

    found = list(device_checks.check_graphs(CouplingCalls(TINY, 3), ("ieee",), CPU, stale))
    assert "tiny-3 ieee: to_latent z: a graph's replay on fresh inputs gives other bits" in found


def test_rows_that_depend_on_others_are_found():
    wrong = changed("coupling_to_latent", lambda z, *rest: (z + len(z), *rest))
    found = list(device_checks.check_addresses(8, 4, CPU, wrong, "tiny"))
    assert "8 rows: to_latent z: rows 4 to 8 differ from the same rows alone" in found


def test_an_op_that_would_run_its_reference_fails():
    with use_reference(), pytest.raises(AssertionError, match="use_reference"):
        test_every_op_runs_its_kernel(CPU)


def test_compiling_ahead_survives_what_breaks_and_keeps_its_time():
    release, done = threading.Event(), []

    def compile_one(number):
        if number == 0:
            raise RuntimeError("no such instruction")
        release.wait(timeout=30)
        done.append(number)

    threading.Timer(0.5, release.set).start()
    with ThreadPoolExecutor(2) as pool:
        compile_ahead(pool, compile_one, range(10), 0.1)
    assert sorted(done) == [1, 2]


def test_a_sanitizer_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path):
    child = tmp_path / "child"
    script = f"sleep 60 &\necho $! > {child}\nwait\n"
    with pytest.raises(pytest.fail.Exception, match="not done after 1 s"):
        run_sanitizer(["sh", "-c", script], dict(os.environ), 1)
    state, end = Path("/proc") / child.read_text().strip() / "stat", time.monotonic() + 10
    # A process that has ended may wait for its parent as a zombie.
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert run_sanitizer(["sh", "-c", "echo wrong; exit 9"], dict(os.environ), 10) == (9, "wrong\n")
