"""`use_reference()` in threads, and in backward passes wherever they run."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nfkern.kernels import CouplingParameters, causal_affine, coupling, use_reference
from nfkern.kernels.coupling import cpu_kernels
from nfkern.kernels.dispatch.examples import examples
from nfkern.kernels.dispatch.registry import reference_forced


def test_threads_that_overlap_leave_nothing_behind():
    """Left in the order in which they came in, where one switch for all would stay."""
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first():
        with use_reference():
            first_is_in.set()
            assert second_is_in.wait(10)
            assert reference_forced()
        first_is_out.set()
        return reference_forced()

    def second():
        assert first_is_in.wait(10)
        before = reference_forced()
        with use_reference():
            second_is_in.set()
            assert first_is_out.wait(10)
            assert reference_forced()
        return before or reference_forced()

    with ThreadPoolExecutor(2) as pool:
        assert not any(run.result() for run in [pool.submit(first), pool.submit(second)])
    assert not reference_forced()


def test_it_nests_and_ends_with_an_error():
    with use_reference():
        with use_reference(False):
            assert not reference_forced()
        assert reference_forced()
        with pytest.raises(ZeroDivisionError), use_reference():
            raise ZeroDivisionError
        assert reference_forced()
    assert not reference_forced()


def loss_of():
    """A loss with a graph, and where its gradient goes."""
    x, term, matrix, log_det, *rest = (
        a.float() if isinstance(a, torch.Tensor) else a for a in examples()["coupling_to_latent"]
    )
    parameters = [p.clone().requires_grad_() for p in rest[:9]]
    z, log_det = coupling.to_latent(x, term, matrix, log_det, CouplingParameters(*parameters))
    return z.square().sum() - log_det.sum(), parameters[0]


@pytest.fixture
def native_calls(monkeypatch, _native):
    """How often the coupling kernels have been called."""
    calls, load = [], cpu_kernels.load
    monkeypatch.setattr(cpu_kernels, "load", lambda: calls.append(1) or load())
    return calls


@pytest.mark.parametrize("where", ["here", "in a thread"])
@pytest.mark.parametrize("reference", [False, True])
def test_a_backward_pass_runs_what_its_forward_pass_ran(reference, where, native_calls):
    with use_reference(reference):
        loss, parameter = loss_of()
    assert bool(native_calls) is not reference
    native_calls.clear()
    # The other way round from the forward pass.
    with use_reference(not reference):
        if where == "here":
            loss.backward()
        else:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(loss.backward).result()
    assert bool(native_calls) is not reference
    assert parameter.grad.isfinite().all()


@pytest.mark.slow
def test_compiled_calls_follow_it():
    x, pairs, log_det = torch.randn(3, 4, 2), torch.randn(3, 4, 2, 2), torch.zeros(3)
    seen = []

    def backend(graph, inputs):
        seen.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph.forward

    compiled = torch.compile(lambda: causal_affine(x, pairs, log_det), fullgraph=True, backend=backend)
    compiled()
    with use_reference():
        compiled()
    compiled()
    assert [any("reference" in name for name in names) for names in seen[:2]] == [False, True]
