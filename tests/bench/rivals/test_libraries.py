"""Flows of other packages: held to their own float64, of nfkern's size, in the form that acts fastest."""

from dataclasses import replace

import pytest
import torch
from support.bench_outcomes import CPU, altered, outcome
from support.selected import selected
from torch.utils._python_dispatch import TorchDispatchMode

from nfkern.bench.core.cases import CASES
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.rivals import nflows, same_size, zuko

pytestmark = pytest.mark.slow

FLOWS = ("log_prob", "inverse", "denoised_action", "training_step")
LIBRARIES = {
    "zuko": zuko.zuko_flow,
    "zuko_nsf": zuko.zuko_nsf_flow,
    "nflows": nflows.nflows_flow,
    "normflows": nflows.normflows_flow,
}


@pytest.fixture
def compiler_limits():
    """As they were, afterwards."""
    limits = torch._dynamo.config
    settings = ("recompile_limit", "fail_on_recompile_limit_hit", "capture_dynamic_output_shape_ops")
    with limits.patch({name: getattr(limits, name) for name in settings}):
        yield
    torch._dynamo.reset()


@pytest.mark.exhaustive(part="rivals")
@pytest.mark.usefixtures("compiler_limits")
@pytest.mark.parametrize(
    ("name", "work"),
    [
        *(("zuko", "inverse"), ("nflows", "denoised_action"), ("nflows", "training_step")),
        ("normflows", "inverse"),
    ],
)
def test_compiled_flows_of_other_packages_pass_their_own_check(name, work):
    record = outcome(VARIANTS[f"{name}_compile"], work)
    assert record.error is None
    assert record.quantiles.repeats >= 2


@pytest.mark.exhaustive(part="rivals")
@pytest.mark.usefixtures("compiler_limits")
def test_packages_are_compiled_for_every_block():
    """Where each is a piece of its own."""

    def piece(block, x):
        torch._dynamo.graph_break()
        return block(x)

    blocks = [torch.nn.Threshold(0.1, float(number)) for number in range(3)]
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        x = torch.linspace(-1, 1, 3)
        run = same_size.compiled(lambda x: [piece(block, x) for block in blocks])
        torch.testing.assert_close(run(x), [block(x) for block in blocks])


@pytest.mark.exhaustive(part="rivals")
@pytest.mark.usefixtures("compiler_limits")
def test_a_selection_is_compiled_in_one_graph():
    """normflows' splines select the entries within their bounds, as many as the data say."""
    run = same_size.compiled(lambda x: x[x > 0].sqrt().sum())
    torch._dynamo.utils.counters.clear()
    for offset in (0.0, 1.5):
        x = torch.linspace(-1, 1, 5) + offset
        torch.testing.assert_close(run(x), x[x > 0].sqrt().sum())
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("work", FLOWS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_flows_of_other_packages_pass_their_own_check(name, work):
    record = outcome(VARIANTS[name], work)
    assert record.error is None
    assert record.quantiles.repeats >= 2


@pytest.mark.parametrize(
    ("work", "spoil", "reason"),
    [
        ("log_prob", lambda log_prob: log_prob + 0.01, "log_prob: "),
        ("log_prob", lambda log_prob: log_prob * float("nan"), "log_prob: "),
        ("inverse", lambda result: (result[0] * 1.001, result[1]), "round trip: "),
        ("inverse", lambda result: (result[0], result[1] + 0.01), "log_det: "),
        ("denoised_action", lambda action: action * 1.001, "action: "),
        ("training_step", lambda loss: loss * 1.001, "losses: "),
    ],
)
@pytest.mark.parametrize("name", LIBRARIES)
def test_flows_of_other_packages_with_wrong_results_are_refused(name, work, spoil, reason):
    spoiled = altered(VARIANTS[name], work, lambda built: replace(built, run=lambda *inputs: spoil(built.run(*inputs))))
    assert outcome(spoiled, work).error.startswith(reason)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda found: {name: 1.01 * gradient for name, gradient in found.items()}, "gradients: error"),
        (lambda found: dict(list(found.items())[1:]), "gradients: expected those of"),
    ],
)
@pytest.mark.parametrize("name", LIBRARIES)
def test_training_of_other_packages_with_wrong_gradients_is_refused(name, spoil, reason):
    """Losses do not show it: of gradients AdamW's first step has the signs."""

    def spoiled(built):
        return replace(built, gradients=lambda: spoil(built.gradients()))

    assert outcome(altered(VARIANTS[name], "training_step", spoiled), "training_step").error.startswith(reason)


def test_zuko_training_that_does_not_train_is_refused():
    def untrained(built):
        built.run.optimizer.param_groups[0]["lr"] = 0.0
        return built

    assert outcome(altered(VARIANTS["zuko"], "training_step", untrained), "training_step").error.startswith("losses: ")


# zuko lacks LayerNorm's weights, nflows has other factors of the mixing, splines have the nearest width.
@pytest.mark.parametrize(
    ("name", "tolerance"), [("zuko", 0.02), ("zuko_nsf", 0.01), ("nflows", 0.001), ("normflows", 0.01)]
)
@pytest.mark.parametrize(
    "case", selected(["ogbench", "ogbench_jax", "chunked", "goal_density"], ["goal_density"], part="rivals")
)
def test_flows_of_other_packages_have_the_size_of_the_flow(name, tolerance, case):
    pytest.importorskip(name.partition("_")[0])
    ours = sum(p.numel() for p in WORKS["inverse"].prepare(CASES[case], 1, CPU).flow.parameters())
    theirs = sum(p.numel() for p in LIBRARIES[name](CASES[case]).parameters())
    assert theirs == pytest.approx(ours, rel=tolerance)


@pytest.mark.parametrize("name", LIBRARIES)
def test_records_have_the_parameters_of_other_packages_flows(name):
    record = outcome(VARIANTS[name], "inverse")
    assert record.parameters == sum(p.numel() for p in LIBRARIES[name](CASES["tiny"]).parameters())
    assert record.parameters != outcome(VARIANTS["eager"], "inverse").parameters


class Names(TorchDispatchMode):
    """Collects the names of PyTorch's ops."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("work", FLOWS)
def test_nflows_composes_its_mixing_in_training_only(work):
    pytest.importorskip("nflows")
    problem = WORKS[work].prepare(CASES["tiny"], 4, CPU)
    with WORKS[work].context():
        call, *_ = VARIANTS["nflows"].builders[work](problem).calls(problem.inputs)
        call()
        with Names() as names:
            call()
    assert ("softplus" in names.found) == (work == "training_step")
