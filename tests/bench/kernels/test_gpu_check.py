"""`make gpu-check` without a GPU: all its steps on the CPU with the reference, and the same checks on wrong results."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.bench_records import ENVIRONMENT
from support.interpreted import interpreted_kernels

pytest.importorskip("triton", reason="the kernels are Triton's")

from nfkern.bench.core import records as storage
from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.kernels import kernel_launches
from nfkern.bench.kernels.gpu_check import correctness, steps, timing
from nfkern.bench.kernels.gpu_check.causal_problems import CausalMaps, CausalProblem, causal_ops
from nfkern.bench.kernels.gpu_check.plan import Plan, carry_out
from nfkern.bench.kernels.gpu_check.problems import Maps, Problem, ops
from nfkern.bench.kernels.gpu_check.report import Findings, markdown, write
from nfkern.bench.rivals.graphed import call_again
from nfkern.kernels import use_reference

ROOT = Path(__file__).parents[3]
CPU, TINY, CAUSAL = torch.device("cpu"), CASES["tiny"], CASES["causal_tiny"]


def session(maps=None, seconds=1e6, now=lambda: 0.0):
    clock = steps.Clock(seconds, now)
    return steps.Session(CPU, maps or ops(), call_again, clock, Findings(ENVIRONMENT))


@pytest.mark.slow
def test_a_dry_run_writes_records_and_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(correctness, "_case", lambda name: TINY)
    monkeypatch.setattr(timing, "REPLAYS", 2)
    # No clock that ticks: the reserves are for a whole check's minutes.
    s = session()
    tiny = Plan(
        problems=lambda: [
            (Problem(TINY, 6, 2, 0.5, 2), ("ieee", "bf16")),
            (Problem(TINY, 1, 1), ("fp16",)),
            (CausalProblem(CAUSAL, 6, 2, True, 0.5), ("ieee", "bf16")),
        ],
        graphs=lambda: [Problem(TINY, 3, 3), CausalProblem(CAUSAL, 3, 3)],
        rows=8,
        part=8,
        timings=(
            ("inverse", "tiny", 4),
            ("denoised_action", "tiny", 1),
            ("training_step", "tiny", 4),
            ("causal_inverse", "causal_tiny", 4),
        ),
        budget=SMOKE,
        limits_size=16,
        limits_bytes=1 << 12,
    )
    # A compiler would take a minute, and is tested with the suite's own variants.
    monkeypatch.setattr(timing, "COMPILED", (replace(timing.OURS[0], name="reference_compile"),))
    carry_out(s, tiny)
    backends = [failure for failure in s.findings.failures if "runs its reference" in failure]
    assert s.findings.failures == backends
    written = write(s.findings, [tmp_path / "a", tmp_path / "b"], "2026-11-25")
    assert [path.name for path in written] == ["example-cpu-1-2026-11-25.json", "example-cpu-1-2026-11-25.md"] * 2
    records = storage.read(written[0])
    plain = ["nfkern", "nfkern_frozen", "nfkern_frozen_bf16", "eager"]
    graphs = [f"{name}_graph" for name in plain]
    compiled = ["reference_compile", "reference_compile_graph"]
    assert [r.variant for r in records if r.work == "inverse"] == plain + graphs + compiled
    assert [r.variant for r in records if r.work == "training_step"] == [
        "nfkern", "nfkern_bf16", "eager", "nfkern_graph", "nfkern_bf16_graph", "eager_graph", *compiled,
    ]  # fmt: skip
    assert [r.variant for r in records if r.work == "causal_inverse"] == plain + graphs + compiled
    for r in records:
        assert r.quantiles is not None, r
        assert (r.quantiles.device_median_s is None) == (not r.variant.endswith("_graph"))
    page = written[1].read_text()
    assert "| tiny inverse | 4 | nfkern_frozen_graph | fp32 |" in page
    assert "## Limits of the device" in page
    assert "- 5 problems (shape, rows, arithmetic)" in page


@pytest.mark.parametrize("field", range(len(Maps._fields)))
@pytest.mark.parametrize("arithmetic", ["ieee", "bf16"])
def test_an_error_in_any_op_is_found(field, arithmetic):
    right = ops()

    def wrong(*args):
        first, *rest = right[field](*args)
        return (first * 1.5, *rest)

    maps = right._replace(**{Maps._fields[field]: wrong})
    found = list(correctness.check(Problem(TINY, 9, 9), (arithmetic,), maps, CPU))
    named = Maps._fields[field].replace("to_data_with_score", "score")
    assert any(line.startswith(f"tiny-9 {arithmetic}: {named} ") for line in found), found


@pytest.mark.parametrize("field", range(len(CausalMaps._fields)))
@pytest.mark.parametrize("arithmetic", ["ieee", "bf16"])
def test_an_error_in_any_causal_op_is_found(field, arithmetic):
    right, problem = causal_ops(), CausalProblem(CAUSAL, 9, 9)

    def wrong(*args):
        first, *rest = right[field](*args)
        return (first * 1.5, *rest)

    assert list(correctness.check(problem, (arithmetic,), right, CPU)) == []
    maps = right._replace(**{CausalMaps._fields[field]: wrong})
    found = list(correctness.check(problem, (arithmetic,), maps, CPU))
    named = CausalMaps._fields[field].replace("to_data_with_score", "score")
    assert any(line.startswith(f"causal_tiny-9 {arithmetic}: {named} ") for line in found), found


@pytest.mark.exhaustive(part="targets")
def test_the_causal_kernels_pass():
    """Under Triton's interpreter, as the other kind's below."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: `make gpu-check` runs the compiled kernels")
    with interpreted_kernels():
        problem = CausalProblem(CAUSAL, 4, 2, True, 0.5)
        assert list(correctness.check(problem, ("ieee", "fp16"), causal_ops(), CPU)) == []


@pytest.mark.exhaustive(part="targets")
def test_the_kernels_pass_and_an_error_in_one_does_not():
    """Under Triton's interpreter, which `conftest.py` has chosen where there is no GPU; its bfloat16 is wrong."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: `make gpu-check` runs the compiled kernels")
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
    assert list(correctness.check(problem, ("ieee", "fp16"), right, CPU)) == []

    def wrong(*args):
        grad_x, grad_term, *rest = right.to_data_backward(*args)
        return (grad_x, grad_term.roll(1, -1), *rest)

    found = list(correctness.check(problem, ("ieee",), right._replace(to_data_backward=wrong), CPU))
    assert len(found) == 1
    assert "to_data_backward grad of term: error" in found[0]


def test_a_wrong_gradient_of_a_parameter_is_found_in_16_bits():
    right = ops()

    def wrong(*args):
        grad_x, grad_term, grad_mixing, *parameters = right.to_latent_backward(*args)
        return (grad_x, grad_term, grad_mixing, *(grad * 1.5 for grad in parameters))

    found = list(correctness.check(Problem(TINY, 9, 9), ("bf16",), right._replace(to_latent_backward=wrong), CPU))
    assert len(found) == 9
    assert all("in norm exceeds" in line for line in found)


def test_reading_uninitialised_memory_is_found():
    right = ops()

    def careless(*args):
        z, log_det, inputs, *_ = right.to_latent(*args)
        return torch.where(torch.empty(1).isnan(), z + 1, z), log_det, inputs

    found = list(correctness.check(Problem(TINY, 4, 4), ("ieee",), right._replace(to_latent=careless), CPU))
    assert found == ["tiny-4 ieee: to_latent z: a second run, in memory filled with NaN, gives other bits"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_graph_that_keeps_its_first_inputs_is_found():
    def stale(function, inputs):
        return (lambda: None), tuple(output.clone() for output in function(*inputs))

    found = list(correctness.check_graphs(Problem(TINY, 3, 3), ("ieee",), ops(), CPU, stale))
    assert "tiny-3 ieee: to_latent z: a graph's replay on fresh inputs gives other bits" in found


def test_rows_that_depend_on_others_are_found(monkeypatch):
    monkeypatch.setattr(correctness, "_case", lambda name: TINY)
    right = ops()

    def wrong(*args):
        z, log_det, inputs, *_ = right.to_latent(*args)
        return z + len(z), log_det, inputs

    found = list(correctness.check_addresses(8, 4, right._replace(to_latent=wrong), CPU))
    assert "8 rows: to_latent z: rows 4 to 8 differ from the same rows alone" in found


def test_steps_survive_what_breaks_and_keep_the_time():
    def broken(*args):
        raise RuntimeError("out of something\nand a long trace")

    times = iter(range(0, 1000, 40))
    s = session(ops()._replace(to_data=broken), seconds=100, now=lambda: next(times))
    every = [(Problem(TINY, rows, rows), ("ieee",)) for rows in (1, 2, 3)]
    steps.check_ops(s, every, reserve=10)
    assert s.findings.failures[0] == "tiny-1: ieee: RuntimeError: out of something"
    assert s.findings.failures[-1] == "problems: 2 left out for want of time"
    assert "## Failures" in markdown(s.findings, "2026-11-25")


@pytest.mark.parametrize("error", [AttributeError("gone"), ImportError("gone"), subprocess.CalledProcessError(1, "cc")])
def test_nothing_that_breaks_takes_the_rest_with_it(error):
    def broken(*args):
        raise error

    s = session(ops()._replace(to_data=broken))
    steps.check_ops(s, [(Problem(TINY, rows, rows), ("ieee",)) for rows in (1, 2)], reserve=0)
    assert [failure.partition(":")[0] for failure in s.findings.failures] == ["tiny-1", "tiny-2"]


def test_kernels_that_would_take_the_checks_time_are_left_to_their_first_use(monkeypatch):
    release, done = threading.Event(), []

    def compile_one(number):
        release.wait(timeout=30)
        done.append(number)

    def executor(jobs, context):
        pool = ThreadPoolExecutor(jobs)
        threading.Timer(0.5, release.set).start()
        return pool

    monkeypatch.setattr(kernel_launches, "compilations", lambda *args, **options: list(range(10)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(steps, "ProcessPoolExecutor", executor)
    monkeypatch.setattr(steps, "compile_one", compile_one)
    s = session(seconds=10)
    steps.compile_kernels(s, reserve=9.9, jobs=2)
    assert sorted(done) == [0, 1]
    assert s.findings.notes == ["compilation: 8 of 10 kernels left to their first use"]
    assert s.findings.failures == []


@pytest.mark.slow
def test_a_sanitizer_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    tool, child = tmp_path / "compute-sanitizer", tmp_path / "child"
    tool.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {child}\nwait\n")
    tool.chmod(0o755)
    monkeypatch.setattr(steps.shutil, "which", lambda name: str(tool))
    s = session()
    steps.check_memory(s, timeout=2.0)
    assert s.findings.notes == ["compute-sanitizer: not done after 2 s"]
    state, end = Path("/proc") / child.read_text().strip() / "stat", time.monotonic() + 10
    # A process that has ended may wait for its parent as a zombie.
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_check_that_broke_off_writes_no_records_without_rows(tmp_path):
    s = session()
    s.findings.failures.append("interrupted")
    (page,) = write(s.findings, [tmp_path], "2026-11-25-1200")
    assert page.name == "example-cpu-1-2026-11-25-1200.md"
    assert "- interrupted" in page.read_text()


def test_an_op_that_would_run_its_reference_is_a_failure():
    s = session()
    with use_reference():
        steps.check_backends(s)
    assert any(line.startswith("coupling_to_latent runs its reference: ") for line in s.findings.failures)


@pytest.mark.slow
def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "nfkern.bench.kernels.gpu_check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 2
    assert "finds no GPU here, so nothing was checked" in result.stderr


@pytest.mark.slow
def test_it_needs_nothing_but_torch_triton_and_numpy():
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"tyro", "tqdm", "safetensors", "msgspec", "polars", "ogbench", "pytest"}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
from nfkern.bench.kernels import binaries, kernel_launches
from nfkern.bench.kernels.gpu_check import limits, report, steps, timing
import nfkern
nfkern.CouplingFlow(3, 2, blocks=1, hidden=(4, 4)).freeze()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
