"""Forms of functions: compiled code of its own, a package's files, calls captured as CUDA graphs."""

import gc
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from support.bench_outcomes import CPU, outcome, tiny

from nfkern.bench.core.declarations import Variant
from nfkern.bench.problems.calls import FLOWS, AdamWStep
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.rivals import forms
from nfkern.bench.rivals.graphed import Graphed, call_again
from nfkern.bench.rivals.models import ReferenceFlow


def stand_in(work):
    """A capture by what stands in for it, uncompiled, for a compiler takes seconds."""
    form = partial(forms.captured, form=forms.eager, capture=call_again)
    return Variant("stand_in", "", forms.builders(form, ReferenceFlow, (work,)))


@pytest.mark.slow
def test_modules_of_a_class_do_not_share_what_is_compiled():
    """A row has more policies of a class than PyTorch keeps graphs for its code."""
    with torch._dynamo.config.patch(recompile_limit=1):
        for width in (2, 3):
            model = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.SiLU()).requires_grad_(False)
            found = forms.compile_whole(model)(torch.ones(1, 4))
            torch.testing.assert_close(found, model(torch.ones(1, 4)))


@pytest.mark.slow
def test_a_package_of_aot_inductor_computes_the_same_and_its_files_go_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # The loader unpacks in C++.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh()).requires_grad_(False), torch.randn(2, 4)
    # The package's own code, and headers for later packages, are slowest to compile.
    quick = {"aot_inductor.compile_wrapper_opt_level": "O0", "aot_inductor.precompile_headers": False}
    with torch._inductor.config.patch(quick):
        run = forms.packaged(model, (x,), tuned=False)

    def left():
        return [path for pattern in ("*.so", "*.pt2") for path in tmp_path.rglob(pattern)]

    assert [path.suffix for path in left()] == [".so"]
    torch.testing.assert_close(run(x), model(x))
    del run
    gc.collect()
    assert left() == []


def test_a_variant_of_cuda_graphs_is_skipped_on_a_cpu():
    assert outcome(VARIANTS["reference_cuda_graph"], "inverse").skipped == "needs a cuda device, got cpu"
    assert VARIANTS["reference_cuda_graph"].not_supported_reasons(WORKS["inverse"], torch.device("cuda")) == []


@pytest.mark.parametrize("work", FLOWS)
def test_captured_calls_pass_the_gate(work):
    record = outcome(stand_in(work), work)
    assert record.error is None, record.error
    assert record.quantiles.repeats >= 2


def test_steps_that_a_capture_takes_would_be_seen(monkeypatch):
    monkeypatch.setattr(AdamWStep, "undone", lambda self: nullcontext())
    assert "exceeds the derived tolerance" in outcome(stand_in("training_step"), "training_step").error


def test_undone_steps_leave_a_new_optimizer_in_the_same_memory():
    problem = WORKS["training_step"].prepare(tiny("training_step"), 4, CPU)
    step = VARIANTS["nfkern"].builders["training_step"](problem).run
    before = [parameter.detach().clone() for parameter in step.trained]
    with step.undone():
        first = [step(*problem.inputs[0]) for _ in range(3)]
        states = [tensor for state in step.optimizer.state.values() for tensor in state.values()]
    assert all(torch.equal(parameter, value) for parameter, value in zip(step.trained, before, strict=True))
    assert states
    assert not any(tensor.any() for tensor in states)
    assert [step(*problem.inputs[0]) for _ in range(3)] == first
    again = [tensor for state in step.optimizer.state.values() for tensor in state.values()]
    assert all(one is other for one, other in zip(states, again, strict=True))


def test_copied_results_keep_their_structure_and_survive_the_next_call():
    graphed = Graphed(lambda x: (x + 1, [2 * x]), (torch.zeros(2),), call_again)
    first = graphed.copied(graphed(torch.ones(2)))
    raw = graphed(torch.full((2,), 5.0))
    assert [tensor.tolist() for tensor in raw] == [[6.0, 6.0], [10.0, 10.0]]
    assert (first[0].tolist(), first[1][0].tolist()) == ([2.0, 2.0], [2.0, 2.0])
