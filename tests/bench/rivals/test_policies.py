"""Rival policies in the control loop: of the flow's size, and unrolled by hand without changing what they do."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from support.selected import exhaustive, selected

from nfkern.algorithms.agents.diffusion import Diffusion
from nfkern.bench.core.cases import CASES
from nfkern.bench.core.declarations import Row
from nfkern.bench.core.environment import current_environment
from nfkern.bench.core.sizes import PARAMETERS_WITHIN
from nfkern.bench.core.timing import SMOKE
from nfkern.bench.problems.control_loop import ControlLoop
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.rivals import acting, policies
from nfkern.bench.runner import measure

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
HEADS = {head.name: head for head in policies.HEADS}


@pytest.fixture
def uncompiled(monkeypatch):
    """The unrolled arithmetic as it is, because a compiler takes seconds for each."""

    class Loader:
        def __init__(self, model, example, tuned=True):
            self.model = model

        def run(self, inputs):
            return [self.model(*inputs)]

    monkeypatch.setattr(acting, "compile_whole", lambda function: function)
    monkeypatch.setattr(acting.aot_inductor, "load_compiled", Loader)


def outcome(variant, case="tiny", batch=3):
    for module in variant.requires:
        pytest.importorskip(module)
    row = Row(WORKS["control_loop"], CASES[case], batch, 1, (variant,))
    (record,) = measure(row, CPU, current_environment(CPU), SMOKE)
    return record


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (name, form) if not form or name == "mixture" else exhaustive((name, form), part="rivals")
        for name, form in itertools.product(HEADS, acting.HEAD_FORMS)
    ],
)
def test_a_policy_passes_its_gate_unrolled_or_not(name, form, uncompiled):
    record = outcome(VARIANTS[name + form])
    assert record.error is None, record.error
    assert record.quantiles is not None


@pytest.mark.exhaustive(part="rivals")
@pytest.mark.parametrize("name", ["mixture", "ddim_10", "flow_matching_10"])
def test_a_compiled_policy_passes_its_gate(name):
    record = outcome(VARIANTS[f"{name}_compile"])
    assert record.error is None, record.error


@pytest.mark.exhaustive(part="rivals")
@pytest.mark.parametrize("name", ["gaussian", "mixture", "flow_matching_10"])
def test_a_policy_compiled_ahead_of_time_passes_its_gate(name):
    record = outcome(VARIANTS[f"{name}_aot_inductor"])
    assert record.error is None, record.error


@pytest.mark.parametrize("name", ["reference_compile", "reference_aot_inductor", "onnxruntime_one_sweep", "jax_jit"])
def test_the_flow_behind_its_encoder_passes_the_gate(name, uncompiled):
    assert outcome(VARIANTS[name]).error is None


@pytest.mark.exhaustive(part="rivals")
@pytest.mark.parametrize("name", ["reference_compile", "reference_aot_inductor"])
def test_the_compiled_flow_behind_its_encoder_passes_the_gate(name):
    assert outcome(VARIANTS[name]).error is None


@pytest.mark.parametrize("name", ["reference_compile", "reference_aot_inductor", "onnxruntime_one_sweep", "jax_jit"])
def test_the_gate_sees_a_wrong_weight_behind_the_encoder(name, uncompiled):
    builder = VARIANTS[name].builders["control_loop"]

    def build(problem):
        encoder = copy.deepcopy(problem.encoder)
        next(encoder.parameters()).data.mul_(1.001)
        return builder(replace(problem, encoder=encoder))

    wrong = replace(VARIANTS[name], builders={"control_loop": build})
    assert "action: error" in outcome(wrong).error


@pytest.mark.parametrize("name", HEADS)
def test_a_policy_has_as_many_parameters_as_the_flow_and_its_encoder(name, uncompiled):
    problem = ControlLoop().prepare(CASES["ogbench"], 1, CPU)
    built = VARIANTS[name].builders["control_loop"](problem)
    assert built.parameters == pytest.approx(problem.parameters, rel=PARAMETERS_WITHIN)
    compiled = VARIANTS[f"{name}_compile"].builders["control_loop"](problem)
    assert compiled.parameters == built.parameters


def test_the_record_tells_each_variants_own_parameters(uncompiled):
    head = HEADS["flow_matching_10"]
    count = sum(p.numel() for p in head.make(3, policies.OWN_WIDTH).parameters())
    assert outcome(VARIANTS["flow_matching_10_compile_own_size"]).parameters == count
    problem = ControlLoop().prepare(CASES["tiny"], 3, CPU)
    assert outcome(VARIANTS["nfkern"]).parameters == problem.parameters != count


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
    built = acting.eager(head, ControlLoop().prepare(CASES["tiny"], 3, CPU))
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

    built = acting.eager(replace(head, packaged=fewer), ControlLoop().prepare(CASES["tiny"], 3, CPU))
    assert "action: error" in built.check(built)
