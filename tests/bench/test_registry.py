"""Every declaration can be carried out."""

from typing import get_args

import pytest
import torch

from nfkern.bench import commands
from nfkern.bench.core.cases import BATCHES, CASES, FlowCase
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


def test_first_rows_are_all_in_the_full_suite():
    names = {row.name for row in rows(SUITES["full"], WORKS, VARIANTS, all_threads=2)}
    works = ("log_prob", "inverse", "denoised_action", "training_step")
    assert {f"{work}-ogbench-{batch}-threads_{n}" for work in works for batch in BATCHES for n in (1, 2)} <= names


def test_the_full_suite_captures_flows_as_cuda_graphs():
    compiled, graphed = VARIANTS["reference_compile"], VARIANTS["reference_cuda_graph"]
    of_flows = [row for row in rows(SUITES["full"], WORKS, VARIANTS, 1) if row.work.name in graphed.builders]
    found = [row for row in of_flows if compiled in row.variants]
    assert {row.work.name for row in found} == {"log_prob", "inverse", "denoised_action", "training_step"}
    assert all(graphed in row.variants for row in found)


def test_the_cpu_suite_sets_every_work_beside_its_rivals_and_floors():
    found = {row.name: {variant.name for variant in row.variants} for row in rows(SUITES["cpu"], WORKS, VARIANTS, 2)}
    rivals = {"eager", "eager_compile", "reference_compile", "reference_max_autotune", "nfkern", "jax_jit", "zuko"}
    for n in (1, 2):
        for case in ("ogbench", "ogbench_jax", "chunked", "goal_density"):
            assert found[f"training_step-{case}-256-threads_{n}"] >= {*rivals, "gemm"}
            for work in ("log_prob", "inverse", "denoised_action"):
                packages = {"onnxruntime", "reference_aot_inductor", "eager_plu_once_aot_inductor"}
                acting = {*rivals, *packages, "nfkern_frozen", "nfkern_frozen_bf16"}
                assert found[f"{work}-{case}-1-threads_{n}"] >= {*acting, "weights_read"}
                for batch in (50, 256, 4096):
                    assert found[f"{work}-{case}-{batch}-threads_{n}"] >= {*acting, "gemm"}
    assert {name for name in found if "-65536-" in name} == {
        f"{work}-ogbench-65536-threads_{n}" for work in ("log_prob", "inverse") for n in (1, 2)
    }


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
