"""The search for faster launches, with a timer that is a formula, and compilers that are functions."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from support.compiling import run_compiling

pytest.importorskip("triton", reason="launches are Triton's")

from nfkern.bench.core.cases import CASES
from nfkern.bench.kernels import tune
from nfkern.bench.kernels.binaries import Usage
from nfkern.bench.kernels.kernel_launches import compilations
from nfkern.errors import UserError
from nfkern.kernels.coupling.triton_launch import LAUNCHES, MANY, LaunchConfig

START = LaunchConfig(16, 16, 32, 4)
ENTRY = tune.Entry("step", "half", 64, START)


def slowness(launch):
    """Least at tile 64, chunks 32 and 128, 8 warps and 3 stages."""
    best = LaunchConfig(64, 32, 128, 8, 3)
    return 1e-5 * sum(
        max(getattr(launch, n) / getattr(best, n), getattr(best, n) / getattr(launch, n)) for n in vars(best)
    )


@pytest.fixture
def known(tmp_path):
    return tune.Timings(tmp_path / "new" / "timings.jsonl", {"device": "H200"})


def all_fit(launches):
    return {}


def test_the_search_walks_to_the_fastest(known):
    timed, prepared = [], []

    def seconds(launch):
        timed.append(launch)
        return slowness(launch)

    def prepare(launches):
        prepared.append(launches)
        return {}

    assert tune.search(ENTRY, known, seconds, prepare) == LaunchConfig(64, 32, 128, 8, 3)
    assert len(timed) == len(set(timed))
    # All neighbours at once: one after the other they would take as long as the compiler does.
    assert [launch for launches in prepared for launch in launches] == timed
    assert len(prepared[1]) > 5


def test_launches_over_budget_are_not_timed(known):
    def seconds(launch):
        assert launch.tile <= 32
        return slowness(launch)

    def prepare(launches):
        return {launch: "spills registers" for launch in launches if launch.tile > 32}

    assert tune.search(ENTRY, known, seconds, prepare) == LaunchConfig(32, 32, 128, 8, 3)


def test_noise_moves_nothing(known):
    assert tune.search(ENTRY, known, lambda launch: 1.0 if launch == START else 0.99, all_fit) == START


def test_neighbours_stay_within_what_products_want():
    found = list(tune.neighbours(LaunchConfig(16, 16, 16, 16, 1)))
    assert found
    assert all(min(n.tile, n.chunk1, n.chunk2) >= 16 and n.warps <= 16 and n.stages >= 1 for n in found)


def test_launches_that_break_are_left_out(known, capsys):
    def seconds(launch):
        if launch.tile == 32:
            raise RuntimeError("out of shared memory\nand a trace")
        return slowness(launch)

    found = tune.search(ENTRY, known, seconds, all_fit)
    assert (found.tile, found.chunk1, found.chunk2) == (16, 32, 128)
    assert "RuntimeError: out of shared memory\n" in capsys.readouterr().out

    def broken(launch):
        raise RuntimeError

    assert tune.search(replace(ENTRY, limit=1024), known, broken, all_fit) == START


def test_a_search_that_was_stopped_goes_on(tmp_path):
    file = tmp_path / "timings.jsonl"
    timed = []

    def search(device, most):
        def seconds(launch):
            if len(timed) == most:
                raise KeyboardInterrupt
            timed.append(launch)
            if launch.tile == 32:
                raise RuntimeError("out of shared memory")
            return slowness(launch)

        return tune.search(ENTRY, tune.Timings(file, {"device": device}), seconds, all_fit)

    with pytest.raises(KeyboardInterrupt):
        search("H200", 9)
    with open(file, "a") as open_file:
        open_file.write('{"device": "H200", "entr')
    with pytest.raises(KeyboardInterrupt):
        search("H200", 9)
    found = search("H200", math.inf)
    assert len(timed) == len(set(timed)) > 9
    assert search("H200", len(timed)) == found
    with pytest.raises(KeyboardInterrupt):
        search("another", len(timed))


def test_each_kernel_is_compiled_once(monkeypatch):
    chosen, precision = tune._calls(CASES["tiny"], ENTRY)
    with tune.launched("step", "half", START, MANY):
        kernels = list(compilations([(chosen, (precision,))], "sm_90"))
    # A bound is a variant of every kernel, and changes nothing about which launch is fast.
    assert not any(dict(each.constants).get("BOUNDED") for each in kernels)
    other, broken, unfit = (replace(START, tile=tile) for tile in (32, 64, 128))
    own = [replace(each, options=(("num_warps", 1),)) for each in kernels[:2]]
    compiled = []

    def usage(each):
        compiled.append(each.key)
        if each is own[0]:
            raise RuntimeError("out of memory\nand a trace")
        return Usage(255, 400 if each is own[1] else 0, 0, 0, "HGMMA 1", 0)

    monkeypatch.setattr(tune, "usage_here", usage)
    wanted = {START: kernels, other: kernels, broken: [*kernels, own[0]], unfit: [*kernels, own[1]]}
    assert own[1].products
    with ThreadPoolExecutor(2) as pool:
        found = tune.compiled(wanted, ENTRY, "sm_90", pool)
    assert sorted(map(repr, compiled)) == sorted(repr(each.key) for each in (*kernels, *own))
    assert found == {
        broken: "RuntimeError: out of memory",
        unfit: "spills registers: 400 bytes of stack, 0 instructions",
    }


@pytest.mark.slow
def test_the_launcher_finds_what_was_compiled_ahead(tmp_path):
    """With a driver that only says what the GPU is: nothing is compiled a second time."""
    code = """
import os
from pathlib import Path
from types import SimpleNamespace
import torch
from triton.runtime import driver
from nfkern.bench.core.cases import FlowCase
from nfkern.bench.kernels.binaries import TARGETS, usage_here
from nfkern.bench.kernels.calls import CouplingCalls, ops
from nfkern.bench.kernels.kernel_launches import compilations, kernels_on_cpu
launched, cache = set(), Path(os.environ["TRITON_CACHE_DIR"])
utils = SimpleNamespace(
    get_device_properties=lambda device: {"max_shared_mem": 1 << 20}, load_binary=lambda *_: (1, 1, 0, 0, 1024)
)
driver.set_active(SimpleNamespace(
    get_current_target=lambda: TARGETS["sm_80"], get_current_device=lambda: 0, get_current_stream=lambda device: 0,
    launcher_cls=lambda source, metadata: lambda *_: launched.add(source.fn.__name__), utils=utils,
))
calls = CouplingCalls(FlowCase("micro", 3, 2, (16, 16), blocks=1), 2, parts=())
for each in compilations([(calls, ("ieee",))], "sm_80"):
    assert usage_here(each).registers
before = set(cache.rglob("*.cubin"))
with kernels_on_cpu():
    calls.run(ops, calls.inputs(torch.device("cpu")), "ieee")
assert launched == {"fold_kernel", "forward_step_kernel"}, launched
assert before and set(cache.rglob("*.cubin")) == before
"""
    result = run_compiling(code, TRITON_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_only_the_chosen_entries_are_searched(known):
    chosen = [each for each in tune.entries() if "step, half" in each.name]
    assert [each.rows for each in chosen] == [64, 1024, 4096]
    table = tune.tuned(chosen, known, lambda entry: slowness, lambda entry: all_fit)
    assert table.keys() == LAUNCHES.keys()
    assert {key for key in table if table[key] != LAUNCHES[key]} == {("step", "half")}
    assert [limit for limit, _ in table["step", "half"]] == [64, 1024, MANY]


def test_the_source_is_the_table():
    text = tune.source(LAUNCHES).partition("] = ")[2]
    assert eval(text, {"LaunchConfig": LaunchConfig, "MANY": MANY}) == LAUNCHES  # noqa: S307


def test_bad_arguments_are_named():
    with pytest.raises(UserError, match="--device: expected a device of PyTorch's such as cuda, got 'gpu'"):
        tune.Tune(device="gpu").run()
    with pytest.raises(UserError, match="--case: expected one of ogbench, .* got 'huge'"):
        tune.Tune(case="huge").run()
    with pytest.raises(UserError, match="--match: expected a part of one of flow, ieee, 4096 rows; .* got 'huge'"):
        tune.Tune(match="huge").run()
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="PyTorch finds none here.*`nfkern bench resources`"):
            tune.Tune().run()


def test_the_module_needs_no_parser_but_pythons(capsys):
    assert tune.main(["--case", "huge"]) == 2
    assert "--case: expected one of ogbench" in capsys.readouterr().err
    code = """
import sys
for name in ("tyro", "tqdm", "h5py", "hypothesis"):
    sys.modules[name] = None
from nfkern.bench.kernels import tune
sys.exit(tune.main(["--match", "huge"]))
"""
    result = run_compiling(code)
    assert (result.returncode, result.stderr.partition(":")[0]) == (2, "--match")


def test_a_launch_is_put_in_and_taken_out():
    before, launch = dict(LAUNCHES), LaunchConfig(16, 16, 16, 1)
    with tune.launched("flow", "ieee", launch, 0):
        assert LAUNCHES["flow", "ieee"] == ((MANY, launch),)
    assert before == LAUNCHES
