"""The gate lets right results through, and no wrong one: errors are injected into every work."""

from dataclasses import replace

import pytest
import torch

from nfkern.bench.core import gate
from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Implementation, Row, Variant
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.problems import eager
from nfkern.bench.registry import WORKS
from nfkern.bench.rivals import sampling, stacked
from nfkern.bench.runner import measure

CPU = torch.device("cpu")
FLOWS = ("log_prob", "inverse", "denoised_action", "training_step")


def scaled(factor):
    def change(result):
        return tuple(part * factor for part in result) if isinstance(result, tuple) else result * factor

    return change


def first_nan(result):
    first = result[0].clone() if isinstance(result, tuple) else result.clone()
    first.view(-1)[-1] = float("nan")
    return (first, *result[1:]) if isinstance(result, tuple) else first


def changed(builder, change):
    def build(problem):
        built = builder(problem)
        return replace(built, run=lambda *inputs: change(built.run(*inputs)))

    return build


def outcome(work, builder, case="tiny", batch=4):
    """The records of the naive variant and of one whose builder is given."""
    variants = (Variant("right", "", eager.BUILDERS), Variant("suspect", "", {work: builder}))
    row = Row(WORKS[work], CASES[case], batch, 1, variants)
    return measure(row, CPU, current_environment(CPU), SMOKE)


@pytest.mark.parametrize("work", FLOWS)
def test_right_results_pass(work):
    right, suspect = outcome(work, stacked.BUILDERS[work])
    for record in (right, suspect):
        assert record.error is None
        assert record.quantiles.repeats >= 2
        assert record.first_call_s > 0


@pytest.mark.parametrize("work", FLOWS)
@pytest.mark.parametrize("change", [scaled(1 + 1e-3), first_nan], ids=["relative_error_1e-3", "one_nan"])
def test_wrong_results_get_no_number(work, change):
    right, suspect = outcome(work, changed(stacked.BUILDERS[work], change))
    assert right.quantiles is not None
    assert suspect.quantiles is None
    assert "exceeds the derived tolerance" in suspect.error


def test_wrong_shape_is_refused():
    _, suspect = outcome("log_prob", changed(stacked.log_prob, lambda result: result[:1]))
    assert suspect.error == "log_prob: expected shape (8, 4), got (8, 1)"


def test_training_without_the_optimiser_is_refused():
    def build(problem):
        built = stacked.training_step(problem)
        built.run.optimizer.param_groups[0]["lr"] = 0.0
        return built

    _, suspect = outcome("training_step", build)
    assert suspect.error.startswith("losses: ")


@pytest.mark.parametrize("name", ["mixing_lu", "context_weight", "norm1_bias", "output_weight"])
def test_wrong_gradient_is_refused(name):
    def build(problem):
        built = stacked.training_step(problem)
        spoil = {name: scaled(1.01)}
        return replace(built, gradients=lambda: {k: spoil.get(k, lambda v: v)(v) for k, v in built.gradients().items()})

    _, suspect = outcome("training_step", build)
    assert suspect.error.startswith(f"gradient of {name}: ")


def test_missing_gradient_is_refused():
    def build(problem):
        built = stacked.training_step(problem)
        return replace(built, gradients=lambda: {})

    _, suspect = outcome("training_step", build)
    assert suspect.error.startswith("results missing: gradient of ")


def test_a_variant_that_raises_is_refused_and_leaves_the_others_their_numbers():
    def build(problem):
        raise RuntimeError("no compiler")

    right, suspect = outcome("inverse", build)
    assert right.quantiles is not None
    assert suspect.error == "RuntimeError: no compiler"


def test_a_variant_that_lacks_a_module_is_skipped_with_the_reason():
    variant = Variant("absent", "", eager.BUILDERS, requires=("no_such_module",))
    row = Row(WORKS["inverse"], CASES["tiny"], 4, 1, (variant,))
    (record,) = measure(row, CPU, current_environment(CPU), SMOKE)
    assert (record.error, record.quantiles) == (None, None)
    assert record.skipped == "needs the module no_such_module"


@pytest.mark.parametrize("builder", [sampling.nfkern_sampler, sampling.row_loop])
def test_samplers_pass(builder):
    row = Row(WORKS["data_sampling"], CASES["synthetic_tiny"], 64, 1, (Variant("it", "", {"data_sampling": builder}),))
    (record,) = measure(row, CPU, current_environment(CPU), SMOKE)
    assert record.error is None


@pytest.mark.parametrize(
    ("key", "shift", "reason"),
    [
        ("next_observations", 1, "next_observations: not those"),
        ("actions", 1, "actions: not those"),
        ("goals", -150, "goals: "),
        ("rewards", None, "rewards: expected float32"),
    ],
)
def test_wrong_batches_are_refused(key, shift, reason):
    work = WORKS["data_sampling"]
    problem = work.prepare(CASES["synthetic_tiny"], 64, CPU)
    sample = sampling.nfkern_sampler(problem).run

    def spoiled():
        batch = sample()
        batch[key] = batch[key][:3] if shift is None else batch[key] + shift
        return batch

    assert work.check(problem, Implementation(spoiled), "fp32").startswith(reason)


def test_a_sampler_that_repeats_itself_is_refused():
    work = WORKS["data_sampling"]
    problem = work.prepare(CASES["synthetic_tiny"], 64, CPU)
    batch = sampling.nfkern_sampler(problem).run()
    assert work.check(problem, Implementation(lambda: batch), "fp32") == "observations: the same batch twice"


def test_tolerance_follows_precision_and_the_reference_error():
    exact = torch.tensor([1.0, -2.0], dtype=torch.float64)
    single = exact.float()
    assert gate.tolerance(exact, single, gate.EPSILON["fp32"]) == pytest.approx(8 * 2**-23)
    assert gate.tolerance(exact, single, gate.EPSILON["bf16"], terms=4) == pytest.approx(16 * 2**-7)
    assert gate.tolerance(exact, single + 0.05, 0.0) == pytest.approx(0.1)
    assert gate.tolerance(exact, single + 0.5, 0.0) == pytest.approx(gate.CAP * 2)


@pytest.mark.parametrize("precision", list(gate.EPSILON))
@pytest.mark.parametrize("terms", [1, 256, 4096, 1 << 20])
def test_zeros_are_refused_in_every_precision(precision, terms):
    exact = torch.randn(1000, dtype=torch.float64)
    zeros = torch.zeros(1000)
    assert gate.disagreement("gradient", zeros, exact, exact.float(), gate.EPSILON[precision], terms) is not None
