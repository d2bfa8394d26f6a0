"""The gate lets right results through, and no wrong one: errors are injected into every work."""

import re
from dataclasses import replace

import pytest
import torch
from support.bench_outcomes import CPU, altered, outcome

from nfkern.bench.core import gate
from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Implementation, Row, Variant
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.registry import WORKS
from nfkern.bench.rivals import sampling, stacked
from nfkern.bench.rivals.pytorch import EAGER
from nfkern.bench.runner import measure

FLOWS = ("log_prob", "inverse", "denoised_action", "training_step")
STACKED = Variant("stacked", "", stacked.BUILDERS)
SAMPLING = WORKS["data_sampling"]


def off(result):
    """Results with a relative error of 1e-3, alone or in a tuple."""
    return tuple(map(off, result)) if isinstance(result, tuple) else result * (1 + 1e-3)


def first_nan(result):
    first = result[0].clone() if isinstance(result, tuple) else result.clone()
    first.view(-1)[-1] = float("nan")
    return (first, *result[1:]) if isinstance(result, tuple) else first


def result(change):
    return lambda built: replace(built, run=lambda *inputs: change(built.run(*inputs)))


def gradients(change):
    return lambda built: replace(built, gradients=lambda: change(built.gradients()))


def without_learning(built):
    built.run.optimizer.param_groups[0]["lr"] = 0.0
    return built


def raising(built):
    raise RuntimeError("no compiler")


@pytest.mark.parametrize("work", FLOWS)
def test_right_results_pass(work):
    found = outcome(STACKED, work)
    assert (found.error, found.skipped) == (None, None)
    assert found.quantiles.repeats >= 2
    assert found.first_call_s > 0


@pytest.mark.parametrize(
    ("work", "change", "reason"),
    [
        *((work, result(off), ": error .* exceeds the derived tolerance") for work in FLOWS),
        *((work, result(first_nan), ": error nan exceeds the derived tolerance") for work in FLOWS),
        ("log_prob", result(lambda found: found[:1]), r"log_prob: expected shape \(8, 4\), got \(8, 1\)"),
        ("training_step", without_learning, "losses: error"),
        *(
            (
                "training_step",
                gradients(lambda found, name=name: found | {name: 1.01 * found[name]}),
                f"of {name}: error",
            )
            for name in ("mixing_lu", "context_weight", "norm1_bias", "output_weight")
        ),
        ("training_step", gradients(lambda found: {}), "results missing: gradient of "),
        ("inverse", raising, "RuntimeError: no compiler"),
    ],
)
def test_wrong_results_get_no_number_and_leave_the_others_theirs(work, change, reason):
    suspect = replace(altered(STACKED, work, change), name="suspect")
    row = Row(WORKS[work], CASES["tiny"], 4, 1, (Variant("right", "", EAGER.builders), suspect))
    right, wrong = measure(row, CPU, current_environment(CPU), SMOKE)
    assert right.quantiles is not None
    assert wrong.quantiles is None
    assert re.search(reason, wrong.error)


def test_a_variant_that_lacks_a_module_is_skipped_with_the_reason():
    variant = Variant("absent", "", EAGER.builders, requires=("no_such_module",))
    (found,) = measure(Row(WORKS["inverse"], CASES["tiny"], 4, 1, (variant,)), CPU, current_environment(CPU), SMOKE)
    assert (found.error, found.quantiles, found.skipped) == (None, None, "needs the module no_such_module")


@pytest.mark.parametrize("builder", [sampling.nfkern_sampler, sampling.row_loop])
def test_samplers_pass(builder):
    assert outcome(Variant("it", "", {"data_sampling": builder}), "data_sampling", 64).error is None


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda batch: batch | {"next_observations": batch["next_observations"] + 1}, "next_observations: not those"),
        (lambda batch: batch | {"actions": batch["actions"] + 1}, "actions: not those"),
        (lambda batch: batch | {"goals": batch["goals"] - 150}, "goals: "),
        (lambda batch: batch | {"rewards": batch["rewards"][:3]}, "rewards: expected float32"),
    ],
)
def test_wrong_batches_are_refused(spoil, reason):
    problem = SAMPLING.prepare(CASES["synthetic_tiny"], 64, CPU)
    sample = sampling.nfkern_sampler(problem).run
    assert SAMPLING.check(problem, Implementation(lambda: spoil(sample())), "fp32").startswith(reason)
    batch = sample()
    assert SAMPLING.check(problem, Implementation(lambda: batch), "fp32") == "observations: the same batch twice"


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
