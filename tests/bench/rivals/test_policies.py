"""Rival policies in the control loop: of the flow's size, and unrolled by hand without changing what they do."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from support.bench_outcomes import CPU, outcome
from support.selected import exhaustive, selected

from nfkern.algorithms.agents.diffusion import Diffusion
from nfkern.bench.core.cases import CASES
from nfkern.bench.core.sizes import PARAMETERS_WITHIN
from nfkern.bench.registry import VARIANTS
from nfkern.bench.rivals import acting, forms, policies
from nfkern.bench.works.control_loop import ControlLoop

pytestmark = pytest.mark.slow

HEADS = {head.name: head for head in policies.HEADS}
FLOWS = ("reference_compile", "reference_aot_inductor", "onnxruntime_one_sweep", "jax_jit")


@pytest.fixture
def uncompiled(monkeypatch):
    """The unrolled arithmetic as it is, because a compiler takes seconds for each."""
    monkeypatch.setattr(forms, "compile_whole", lambda function: function)
    monkeypatch.setattr(forms, "packaged", lambda model, example, tuned=True: model)


def error_of(variant):
    return outcome(variant, "control_loop", batch=3).error


def prepared(case="tiny", batch=3):
    return ControlLoop().prepare(CASES[case], batch, CPU)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (name, form) if not form or name == "mixture" else exhaustive((name, form), part="rivals")
        for name, form in itertools.product(HEADS, acting.HEAD_FORMS)
    ],
)
def test_a_policy_passes_its_gate_unrolled_or_not(name, form, uncompiled):
    assert error_of(VARIANTS[name + form]) is None


@pytest.mark.exhaustive(part="rivals")
@pytest.mark.parametrize("form", ["_compile", "_aot_inductor"])
@pytest.mark.parametrize("name", ["mixture", "ddim_10", "flow_matching_10"])
def test_a_compiled_policy_passes_its_gate(name, form):
    assert error_of(VARIANTS[name + form]) is None


@pytest.mark.parametrize("factor", [1.0, 1.001])
@pytest.mark.parametrize("name", FLOWS)
def test_the_gate_tells_a_right_flow_from_one_behind_a_wrong_encoder(name, factor, uncompiled):
    builder = VARIANTS[name].builders["control_loop"]

    def build(problem):
        encoder = copy.deepcopy(problem.encoder)
        next(encoder.parameters()).data.mul_(factor)
        return builder(replace(problem, encoder=encoder))

    error = error_of(replace(VARIANTS[name], builders={"control_loop": build}))
    assert error is None if factor == 1 else "action: error" in error


@pytest.mark.parametrize("name", HEADS)
def test_a_policy_has_as_many_parameters_as_the_flow_and_its_encoder(name, uncompiled):
    problem = prepared("ogbench", 1)
    built = VARIANTS[name].builders["control_loop"](problem)
    assert built.parameters == pytest.approx(problem.parameters, rel=PARAMETERS_WITHIN)
    compiled = VARIANTS[f"{name}_compile"].builders["control_loop"](problem)
    assert compiled.parameters == built.parameters


def test_the_record_tells_each_variants_own_parameters(uncompiled):
    count = sum(p.numel() for p in HEADS["flow_matching_10"].make(3, policies.OWN_WIDTH).parameters())
    found = [outcome(VARIANTS[n], "control_loop").parameters for n in ("flow_matching_10_compile_own_size", "nfkern")]
    assert found == [count, prepared().parameters]
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("sampler", "draws", "number"),
    selected(
        [*(("ddpm", 10, number) for number in (0, 1, 2, 3, 5)), *(("ddim", 1, number) for number in (0, 1, 2, 4))],
        [("ddpm", 10, 2), ("ddim", 1, 1), ("ddim", 1, 4)],
        part="rivals",
    ),
)
def test_the_gate_sees_a_wrong_number_in_the_schedule(sampler, draws, number, monkeypatch):
    """Those that the sampler has, each off by a hundredth in the arithmetic that the scheduler's is held to."""
    pytest.importorskip("diffusers")
    right = policies.denoising_numbers
    head = policies.diffusion_head(sampler, 10, draws)
    built = acting.eager(head, prepared())
    assert built.check(built) is None

    def wrong(sampler, steps):
        return [(*each[:number], 1.01 * each[number], *each[number + 1 :]) for each in right(sampler, steps)]

    monkeypatch.setattr(policies, "denoising_numbers", wrong)
    assert "action: error" in built.check(built)


def test_the_gate_sees_steps_that_are_left_out():
    """A sampler of nine steps in the place of ten."""
    head = HEADS["ddim_10"]
    pytest.importorskip("diffusers")

    def fewer(network, features):
        diffusion = Diffusion(100, "ddim", 9)
        return lambda observations: diffusion.sample(network, torch.randn(len(observations), features), observations)

    built = acting.eager(replace(head, packaged=fewer), prepared())
    assert "action: error" in built.check(built)
