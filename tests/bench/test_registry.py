"""Every declaration can be carried out."""

from typing import get_args

import pytest
import torch

from nfkern.bench import commands
from nfkern.bench.core.cases import CASES, FlowCase
from nfkern.bench.core.declarations import Benchmark, rows
from nfkern.bench.problems.flow_problem import random_flow
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.suites import SUITES


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if isinstance(case, FlowCase)])
def test_every_flow_case_is_constructible(name):
    case = CASES[name]
    flow = random_flow(case)
    state = torch.random.get_rng_state()
    again = random_flow(case)
    assert torch.equal(torch.random.get_rng_state(), state)
    for (key, value), other in zip(flow.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other), key
        assert value.abs().max() > 0, key
    if name == "ogbench":
        assert sum(parameter.numel() for parameter in flow.parameters()) == pytest.approx(1.02e6, rel=0.01)


def test_every_suite_can_be_run():
    assert set(get_args(commands.Suite)) == set(commands.BUDGETS) == set(SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_expands(suite):
    for row in rows(SUITES[suite], WORKS, VARIANTS, all_threads=2):
        for variant in row.variants:
            reasons = variant.not_supported_reasons(row.work, torch.device("cpu"))
            assert not any("does not implement" in reason for reason in reasons), (row.name, variant.name)


def test_one_core_has_one_thread_count():
    names = [row.name for row in rows(SUITES["quick"], WORKS, VARIANTS, all_threads=1)]
    assert all(name.endswith("threads_1") for name in names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (Benchmark("fly", ("tiny",), (1,), ("eager",)), "work: expected one of .*, got 'fly'"),
        (Benchmark("inverse", ("huge",), (1,), ("eager",)), "case: expected one of .*, got 'huge'"),
        (Benchmark("inverse", ("tiny",), (1,), ("magic",)), "variant: expected one of .*, got 'magic'"),
        (Benchmark("inverse", ("tiny", "tiny"), (1,), ("eager",)), "inverse-tiny-1-threads_1 is declared twice"),
    ],
)
def test_wrong_declarations_are_named(declared, message):
    with pytest.raises(ValueError, match=message):
        rows([declared], WORKS, VARIANTS, all_threads=2)


def test_every_row_of_the_quick_suite_has_a_rival_that_somebody_tuned():
    tuned = {"reference_compile", "onnxruntime", "onnxruntime_one_sweep", "jax_jit"}
    for row in rows(SUITES["quick"], WORKS, VARIANTS, all_threads=2):
        assert len(tuned & {variant.name for variant in row.variants}) >= 2, row.name


def test_what_runs_on_the_host_alone_is_skipped_on_a_gpu():
    gpu = torch.device("cuda")
    for work in ("control_loop", "data_sampling"):
        assert VARIANTS["nfkern"].not_supported_reasons(WORKS[work], gpu) == ["needs a cpu device, got cuda"]
    for name in ("onnxruntime", "onnxruntime_one_sweep", "jax_jit"):
        assert "needs a cpu device, got cuda" in VARIANTS[name].not_supported_reasons(WORKS["denoised_action"], gpu)
    for name in ("nfkern", "eager", "zuko", "gemm"):
        assert VARIANTS[name].not_supported_reasons(WORKS["denoised_action"], gpu) == []
