"""Threads, processes and PyTorch's own machinery around the native CPU kernels."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from support import flows
from support.coupling_problems import DIRECTIONS, gradients, mapping, problem, random_gradients, single

from nfkern.kernels import CouplingParameters
from nfkern.kernels.dispatch import native_extension

pytestmark = pytest.mark.usefixtures("_native")


@pytest.fixture
def threads():
    """A function that sets torch's threads, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def results(seed=0, rows=300, groups=60, **options):
    """Results and gradients of both maps, in float32."""
    x, term, matrices, parameters, settings = problem(rows=rows, groups=groups, seed=seed, **options)
    found = []
    for direction in DIRECTIONS:
        arguments = single((x, term, *matrices[direction == "to_data"], parameters))
        found.extend(mapping(direction, settings)(*arguments))
        found.extend(gradients(direction, settings)(*arguments, single(random_gradients(x))))
    return found


def test_a_call_runs_on_torch_s_threads(threads):
    for count in (1, 2, 3):
        threads(count)
        assert native_extension.threads_in_use() == count


@pytest.mark.parametrize("groups", [60, *(pytest.param(groups, marks=pytest.mark.slow) for groups in (1, 300))])
def test_any_number_of_threads(groups, threads, instruction_set):
    threads(1)
    alone = results(groups=groups)
    for count in (1, 2, 3):
        threads(count)
        first, second = results(groups=groups), results(groups=groups)
        for a, b, expected in zip(first, second, alone, strict=True):
            assert torch.equal(a, b)
            # Where rows are cut, a row falls into a panel or not, and its sums are added in another order.
            assert (a - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("count", [1, 2])
def test_flows_on_several_python_threads(count, threads):
    """Each thread has its own scratch memory, and grows it for the largest flow that it has seen."""
    threads(count)
    prepared = []
    for seed, (width, rows) in enumerate(((8, 60), (50, 60), (8, 300), (50, 300))):
        x, term, matrices, parameters, settings = problem(rows=rows, groups=60, seed=seed, hidden=(width, 70 - width))
        for direction in DIRECTIONS:
            arguments = single((x, term, *matrices[direction == "to_data"], parameters, random_gradients(x)))
            prepared.append((gradients(direction, settings), arguments))

    def work(i):
        torch.set_num_threads(count)
        call, arguments = prepared[i % len(prepared)]
        return call(*arguments)

    alone = [work(i) for i in range(len(prepared))]
    with ThreadPoolExecutor(4) as pool:
        for i, grads in enumerate(pool.map(work, range(6 * len(prepared)))):
            assert all(torch.equal(a, e) for a, e in zip(grads, alone[i % len(prepared)], strict=True))


def test_threads_sleep_after_a_call(threads):
    threads(2)
    results()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.15


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_forked_processes():
    root = Path(__file__).parents[3]
    command = [sys.executable, str(root / "tests/support/forks.py")]
    path = os.pathsep.join((str(root), str(root / "tests")))
    # A child that waits for threads that it does not have would wait for ever.
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert run.stdout == "done\n", run.stderr


def test_memory_of_large_gradients_is_used_again():
    """It serves the next call once it is free, never before, from whichever thread."""
    x, term, matrices, parameters, settings = problem(rows=40, groups=40, hidden=(300, 200))
    arguments = single((x, term, *matrices[0], parameters, random_gradients(x)))

    def hidden_weight_grad(_=None):
        return gradients("to_latent", settings)(*arguments)[4 + CouplingParameters._fields.index("hidden_weight")]

    expected = hidden_weight_grad().clone()
    addresses = {hidden_weight_grad().data_ptr() for _ in range(20)}
    sanitized = "asan" in os.environ.get("LD_PRELOAD", "")  # then every tensor has its own
    assert len(addresses) < 4 or sanitized
    held = [hidden_weight_grad() for _ in range(12)]
    with ThreadPoolExecutor(4) as pool:
        held.extend(pool.map(hidden_weight_grad, range(12)))
    assert len({grad.data_ptr() for grad in held}) == len(held)
    for grad in held:
        torch.testing.assert_close(grad, expected)
    assert held[0].resize_(2, *expected.shape).numel() == 2 * expected.numel()


@pytest.mark.parametrize("bound", [None, 1.5])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradcheck(direction, groups, bound, instruction_set):
    x, term, matrices, parameters, settings = problem(rows=4, groups=groups, scale_bound=bound, hidden=(7, 6))
    tensors = (x, term, *matrices[direction == "to_data"], *parameters)

    def call(*tensors):
        return mapping(direction, settings)(*tensors[:4], CouplingParameters(*tensors[4:]))

    assert torch.autograd.gradcheck(call, [t.clone().requires_grad_() for t in tensors], fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("compute_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_opcheck(direction, compute_dtype):
    x, term, matrices, parameters, _ = problem(rows=40, groups=20)
    arguments = single((x, term, *matrices[direction == "to_data"], *parameters))
    leaves = tuple(t.clone().requires_grad_() for t in arguments)
    op = getattr(torch.ops.nfkern, f"coupling_{direction}").default
    torch.library.opcheck(op, (*leaves, 1e-5, 1.5, compute_dtype))


@pytest.mark.slow
def test_compiles_as_one_graph():
    flow = flows.make_flow("paper", torch.float32)
    x, context = flows.make_inputs(flow, 40)

    def loss():
        return flow(x, context).mean() + flow.to_data(x, context)[0].square().mean()

    # Without code of its own: inductor has its turn in test_ops.py.
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected, actual = (torch.autograd.grad(call(), list(flow.parameters())) for call in (loss, compiled))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_seeds_equal_a_loop(direction, instruction_set):
    problems = [problem(rows=21, groups=7, seed=seed) for seed in range(3)]
    each = [single((x, term, *m[direction == "to_data"], *p)) for x, term, m, p, _ in problems]
    settings = problems[0][4]

    def call(*tensors):
        return mapping(direction, settings)(*tensors[:4], CouplingParameters(*tensors[4:]))

    def with_gradients(function, tensors):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        result, log_det = function(*leaves)
        return result, log_det, *torch.autograd.grad(result.square().sum() + log_det.sum(), leaves)

    alone = [with_gradients(call, tensors) for tensors in each]
    together = with_gradients(torch.vmap(call), [torch.stack(tensors) for tensors in zip(*each, strict=True)])
    for a, e in zip(together, zip(*alone, strict=True), strict=True):
        assert torch.equal(a, torch.stack(e))
