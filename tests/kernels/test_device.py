"""Every op on a device against float64: `pytest tests/kernels/test_device.py --device cuda` for a GPU's kernels.

Without the option small problems run on the CPU, which also shows that wrong results are found.
"""

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
from support.causal_device_problems import CausalMaps, CausalProblem, causal_ops
from support.device_problems import Problem
from support.interpreted import interpreted_kernels

from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.kernels.calls import Maps, ops
from nfkern.kernels import backend_reasons, registered_backends, use_reference

ROOT = Path(__file__).parents[2]
COMPILING_S = 150
"""Seconds for compiling ahead: few cores take minutes for all."""
CPU, TINY, CAUSAL = torch.device("cpu"), CASES["tiny"], CASES["causal_tiny"]
SMALL = [
    (Problem(TINY, 6, 2, 0.5, 2), ("ieee", "bf16")),
    (Problem(TINY, 1, 1), ("ieee",)),
    (CausalProblem(CAUSAL, 6, 2, True, 0.5), ("ieee", "bf16")),
]


def pytest_generate_tests(metafunc):
    on_gpu = metafunc.config.getoption("device") != "cpu"
    if "checked" in metafunc.fixturenames:
        problems = list(device_checks.problems()) if on_gpu else SMALL
        metafunc.parametrize("checked", problems, ids=[problem.name for problem, _ in problems])
    if "graphed" in metafunc.fixturenames:
        problems = list(device_checks.graph_problems())
        metafunc.parametrize("graphed", problems, ids=[problem.name for problem in problems])


def maps_of(problem):
    return causal_ops() if isinstance(problem, CausalProblem) else ops()


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
    from nfkern.bench.kernels.kernel_launches import compilations

    cases = {problem.case.name: problem.case for problem, _ in device_checks.problems()}
    pdl = torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 9
    chosen = compilations(tuple(cases.values()), ("ieee", "tf32", "half"), pdl=pdl)
    # Each process takes some 0.5 GB of the device for its context.
    with ProcessPoolExecutor(min(16, os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool:
        compile_ahead(pool, warm_cache, chosen, COMPILING_S)
    return device


def test_every_op_runs_its_kernel(device):
    """The rest would otherwise compare the reference with itself."""
    for name, backend in registered_backends(device).items():
        # On a GPU flows call PyTorch's own product; the causal flow's derivative has no kernel anywhere.
        if name not in ("causal_flow_to_latent_backward", *(["linear"] if device.type == "cuda" else [])):
            assert backend == "native", (name, backend_reasons(name, device))


def test_every_op_equals_float64_within_its_tolerance(checked, device, request):
    if device.type == "cuda":
        request.getfixturevalue("gpu")
    problem, arithmetics = checked
    assert list(device_checks.check(problem, arithmetics, maps_of(problem), device)) == []


def test_graphs_replay_on_fresh_inputs(graphed, gpu):
    from nfkern.acting.cuda_graphs import capture_cuda

    assert list(device_checks.check_graphs(graphed, ("ieee", "bf16"), maps_of(graphed), gpu, capture_cuda)) == []


def test_more_rows_than_32_bits_reach(gpu):
    if torch.cuda.mem_get_info(gpu)[0] < 40 << 30:
        pytest.skip("needs 40 GiB of free memory on the GPU")
    assert list(device_checks.check_addresses(1 << 20, 1 << 16, ops(), gpu)) == []
    torch.cuda.empty_cache()


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer(tool, gpu):
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        pytest.skip("needs compute-sanitizer")
    checks = (
        "from support.device_checks import *\n"
        "from support.causal_device_problems import causal_ops\nfrom nfkern.bench.kernels.calls import ops\n"
        "for problem, maps in ((Problem(CASES['tiny'], 7, 7), ops()), (CausalProblem(CASES['causal_tiny'], 7, 7), "
        "causal_ops())):\n    assert not list(check(problem, ('ieee',), maps, torch.device('cuda')))\n"
    )
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", checks]
    # Without PyTorch's pool, every tensor has bounds that the tool can see.
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": path}
    code, output = run_sanitizer(command, environment, 90)
    assert code == 0, output[-2000:]


@pytest.mark.parametrize("field", range(len(Maps._fields)))
@pytest.mark.parametrize("arithmetic", ["ieee", "bf16"])
def test_an_error_in_any_op_is_found(field, arithmetic):
    right = ops()

    def wrong(*args):
        first, *rest = right[field](*args)
        return (first * 1.5, *rest)

    maps = right._replace(**{Maps._fields[field]: wrong})
    found = list(device_checks.check(Problem(TINY, 9, 9), (arithmetic,), maps, CPU))
    named = Maps._fields[field].replace("to_data_with_score", "score")
    assert any(line.startswith(f"tiny-9 {arithmetic}: {named} ") for line in found), found


@pytest.mark.parametrize("field", range(len(CausalMaps._fields)))
@pytest.mark.parametrize("arithmetic", ["ieee", "bf16"])
def test_an_error_in_any_causal_op_is_found(field, arithmetic):
    right, problem = causal_ops(), CausalProblem(CAUSAL, 9, 9)

    def wrong(*args):
        first, *rest = right[field](*args)
        return (first * 1.5, *rest)

    assert list(device_checks.check(problem, (arithmetic,), right, CPU)) == []
    maps = right._replace(**{CausalMaps._fields[field]: wrong})
    found = list(device_checks.check(problem, (arithmetic,), maps, CPU))
    named = CausalMaps._fields[field].replace("to_data_with_score", "score")
    assert any(line.startswith(f"causal_tiny-9 {arithmetic}: {named} ") for line in found), found


@pytest.mark.exhaustive(part="targets")
def test_the_interpreted_causal_kernels_pass():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: the compiled kernels run")
    with interpreted_kernels():
        problem = CausalProblem(CAUSAL, 4, 2, True, 0.5)
        assert list(device_checks.check(problem, ("ieee", "fp16"), causal_ops(), CPU)) == []


@pytest.mark.exhaustive(part="targets")
def test_the_interpreted_kernels_pass_and_an_error_in_one_does_not():
    """Not in bfloat16, whose products Triton's interpreter gets wrong."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: the compiled kernels run")
    from nfkern.kernels.coupling import triton_derivatives as derivatives
    from nfkern.kernels.coupling import triton_launch as launch

    right = Maps(
        launch.to_latent,
        launch.to_data,
        derivatives.to_data_with_score,
        derivatives.to_latent_backward,
        derivatives.to_data_backward,
    )
    problem = Problem(FlowCase("micro", 3, 2, (16, 20), blocks=2), rows=2, groups=1, bound=2.0)
    assert list(device_checks.check(problem, ("ieee", "fp16"), right, CPU)) == []

    def wrong(*args):
        grad_x, grad_term, *rest = right.to_data_backward(*args)
        return (grad_x, grad_term.roll(1, -1), *rest)

    found = list(device_checks.check(problem, ("ieee",), right._replace(to_data_backward=wrong), CPU))
    assert len(found) == 1
    assert "to_data_backward grad of term: error" in found[0]


def test_a_wrong_gradient_of_a_parameter_is_found_in_16_bits():
    right = ops()

    def wrong(*args):
        grad_x, grad_term, grad_mixing, *parameters = right.to_latent_backward(*args)
        return (grad_x, grad_term, grad_mixing, *(grad * 1.5 for grad in parameters))

    maps = right._replace(to_latent_backward=wrong)
    found = list(device_checks.check(Problem(TINY, 9, 9), ("bf16",), maps, CPU))
    assert len(found) == 9
    assert all("in norm exceeds" in line for line in found)


def test_reading_uninitialised_memory_is_found():
    right = ops()

    def careless(*args):
        z, log_det, inputs, *_ = right.to_latent(*args)
        return torch.where(torch.empty(1).isnan(), z + 1, z), log_det, inputs

    found = list(device_checks.check(Problem(TINY, 4, 4), ("ieee",), right._replace(to_latent=careless), CPU))
    assert found == ["tiny-4 ieee: to_latent z: a second run, in memory filled with NaN, gives other bits"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_graph_that_keeps_its_first_inputs_is_found():
    def stale(function, inputs):
        return (lambda: None), tuple(output.clone() for output in function(*inputs))

    found = list(device_checks.check_graphs(Problem(TINY, 3, 3), ("ieee",), ops(), CPU, stale))
    assert "tiny-3 ieee: to_latent z: a graph's replay on fresh inputs gives other bits" in found


def test_rows_that_depend_on_others_are_found(monkeypatch):
    monkeypatch.setattr(device_checks, "_case", lambda name: TINY)
    right = ops()

    def wrong(*args):
        z, log_det, inputs, *_ = right.to_latent(*args)
        return z + len(z), log_det, inputs

    found = list(device_checks.check_addresses(8, 4, right._replace(to_latent=wrong), CPU))
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
