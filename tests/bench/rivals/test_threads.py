"""XLA and ONNX Runtime compute on the row's threads, and rest between calls."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.bench_outcomes import CPU, tiny

from nfkern.bench.core.timing import num_threads
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.rivals import jax_jit, onnxruntime

pytestmark = pytest.mark.slow

PROC = Path("/proc/self/task")
two_cores = pytest.mark.skipif(
    not PROC.exists() or len(os.sched_getaffinity(0)) < 2, reason="needs two cores and Linux's view of threads"
)


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


@pytest.mark.parametrize(
    ("name", "work"),
    [(n, work) for n in ("jax_jit", "onnxruntime", "onnxruntime_one_sweep") for work in VARIANTS[n].builders],
)
def test_every_work_asks_for_the_rows_threads(name, work, monkeypatch):
    for module in VARIANTS[name].requires:
        pytest.importorskip(module)
    asked, start = [], jax_jit.start_client

    def session(model, example, threads):
        asked.append(threads)
        return SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name=name) for name in ("x", "context")])

    monkeypatch.setattr(onnxruntime, "session", session)
    monkeypatch.setattr(jax_jit, "start_client", lambda threads: (asked.append(threads), start(1)))
    problem = WORKS[work].prepare(tiny(work), 1, CPU)
    with num_threads(3):
        VARIANTS[name].builders[work](problem)
    assert asked == [3]
