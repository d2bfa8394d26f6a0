"""One thread and a quick hypothesis profile for every test: small tensors gain nothing from more."""

import contextlib
import hashlib
import os
import signal
from pathlib import Path

import pytest
import torch

pytest_plugins = ["support.suite_rules"]

# A machine with a GPU may have pytest and nothing else: enough for `tests/kernels/test_device.py --device cuda`.
with contextlib.suppress(ModuleNotFoundError):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "nfkern", deadline=None, max_examples=15, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("nfkern")

# Read when cuBLAS starts: without, its sums may differ from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the device."""
    parser.addoption("--device", default="cpu", help="where tests/kernels/test_device.py runs the kernels: cpu, cuda")


if not torch.cuda.is_available():
    # Triton chooses between its interpreter and a compiler when it is first imported, which any test may cause.
    os.environ["TRITON_INTERPRET"] = "1"

# Inductor keys its cache by an op's name, whatever the shapes of its results were: a cache for each version of the ops.
_root = Path(__file__).parents[1]
_ops = b"".join(path.read_bytes() for path in sorted(_root.glob("kernels/**/*.py")))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_root / "build/inductor" / hashlib.sha256(_ops).hexdigest()[:12]))

# What /proc/cpuinfo says of instruction sets is enough: Inductor would compile a program for each, which takes seconds.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell starts its background jobs so, and processes that tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
