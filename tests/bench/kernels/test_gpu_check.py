"""`make gpu-check`'s timings without a GPU: every step on the CPU with the reference."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.bench_records import ENVIRONMENT

pytest.importorskip("triton", reason="the kernels are Triton's")

from nfkern.bench.core import records as storage
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.kernels import gpu_check
from nfkern.bench.rivals.graphed import call_again

ROOT = Path(__file__).parents[3]
ROWS = (
    ("inverse", "tiny", 4),
    ("denoised_action", "tiny", 1),
    ("training_step", "tiny", 4),
    ("causal_inverse", "causal_tiny", 4),
)


def check(seconds=1e6, now=lambda: 0.0):
    return gpu_check.Check(torch.device("cpu"), ENVIRONMENT, call_again, seconds, now)


@pytest.mark.slow
def test_a_dry_run_writes_records_and_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "REPLAYS", 2)
    c = check()
    c.measure(gpu_check.OURS, 60, ROWS, SMOKE)
    c.measure_limits(45, 16, 1 << 12)
    # A compiler would take a minute, and is tested with the suite's own variants.
    c.measure((replace(gpu_check.OURS[0], name="reference_compile"),), 120, ROWS, SMOKE)
    assert c.failures == []
    written = c.write([tmp_path / "a", tmp_path / "b"], "2026-11-25")
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


@pytest.mark.parametrize("error", [AttributeError("gone"), ImportError("gone"), subprocess.CalledProcessError(1, "cc")])
def test_nothing_that_breaks_takes_the_rest_with_it(error, monkeypatch):
    def broken(*args):
        raise error

    monkeypatch.setattr(gpu_check, "measure", broken)
    monkeypatch.setattr(gpu_check, "limits", broken)
    c = check()
    c.measure(gpu_check.OURS, 0, ROWS[:2], SMOKE)
    c.measure_limits(0)
    titles = [failure.partition(":")[0] for failure in c.failures]
    assert titles == ["inverse-tiny-4-threads_1", "denoised_action-tiny-1-threads_1", "limits of the device"]
    assert "## Failures" in c.page("2026-11-25")


def test_what_time_does_not_allow_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(gpu_check, "measure", lambda *args: iter(()))
    times = iter(range(0, 1000, 40))
    c = check(100, lambda: next(times))
    c.measure(gpu_check.OURS, 10, ROWS, SMOKE)
    assert c.notes == ["timings: 2 left out for want of time"]
    c.measure_limits(45)
    assert c.notes[1] == "limits of the device: no time left"


def test_a_check_that_broke_off_writes_no_records_without_rows(tmp_path):
    c = check()
    c.failures.append("interrupted")
    (page,) = c.write([tmp_path], "2026-11-25-1200")
    assert page.name == "example-cpu-1-2026-11-25-1200.md"
    assert "- interrupted" in page.read_text()


@pytest.mark.slow
def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for command in (
        ["-m", "nfkern.bench.kernels.gpu_check"],
        ["-m", "pytest", "-q", "tests/kernels/test_device.py", "--device", "cuda"],
    ):
        result = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT)
        assert result.returncode == 2
        assert "finds no GPU here, so nothing was" in result.stderr + result.stdout


@pytest.mark.slow
def test_it_needs_nothing_but_torch_triton_numpy_and_pytest():
    code = """
import os, sys
missing = ("tyro", "tqdm", "safetensors", "gymnasium", "ogbench", "requests", "hypothesis", "msgspec", "polars")
sys.modules.update(dict.fromkeys(missing))
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
from nfkern.bench.kernels import binaries, gpu_check, kernel_launches
import nfkern, pytest
nfkern.CouplingFlow(3, 2, blocks=1, hidden=(4, 4)).freeze()
code = pytest.main(["-q", "-p", "no:cacheprovider", "tests/kernels/test_device.py", "-k", "tiny-1"])
assert code == 0, code
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr + result.stdout
