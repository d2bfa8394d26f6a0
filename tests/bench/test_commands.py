"""The commands, on a suite of milliseconds."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from support.bench_records import ENVIRONMENT, record

from nfkern.bench import commands, registry, suites
from nfkern.bench.core import declarations, files
from nfkern.bench.core import records as storage
from nfkern.bench.core.declarations import Benchmark, Implementation
from nfkern.bench.report.rows import timed_rows
from nfkern.bench.runner import measure
from nfkern.errors import UserError

ROOT = Path(__file__).parent.parent.parent
ROWS = ["log_prob-tiny-1-threads_1", "log_prob-tiny-4-threads_1"]
KEYS = [f"{row}-{name}" for row in ROWS for name in ("eager", "nfkern")]


@pytest.fixture(autouse=True)
def tiny_suite(monkeypatch):
    """`smoke` is two rows of two variants, on a machine that is not the one of `bench_records`."""
    suite = (Benchmark("log_prob", ("tiny",), (1, 4), ("eager", "nfkern"), threads=("one",)),)
    monkeypatch.setitem(suites.SUITES, "smoke", suite)
    monkeypatch.setattr(commands, "current_environment", lambda device: replace(ENVIRONMENT, device_name="Here"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "records.json"


def keys(path):
    return [saved.key for saved in storage.read(path)]


def run(out, **options):
    """`nfkern bench run` without a page, for its exit code."""
    return commands.Run(out, "smoke", **{"page": False} | options).run()


def refuse_the_first(out):
    first, *others = storage.read(out)
    storage.write(out, [replace(first, quantiles=None, error="red"), *others])


def changed(monkeypatch, name, change):
    """Let a variant's log_prob be what `change` makes of it."""
    variant = registry.VARIANTS[name]

    def build(problem):
        return Implementation(change(variant.builders["log_prob"](problem).run))

    monkeypatch.setitem(registry.VARIANTS, name, replace(variant, builders={"log_prob": build}))


def slow(run):
    def slower(*inputs):
        time.sleep(5e-3)
        return run(*inputs)

    return slower


def remembering(run):
    known = {}

    def faster(*inputs):
        if id(inputs[0]) not in known:
            known[id(inputs[0])] = run(*inputs)
        return known[id(inputs[0])]

    return faster


def interrupt_after_a_row(monkeypatch):
    """Ctrl-C when the second row is about to be measured; the list of what was, which grows."""
    measured = []

    def interrupted(row, *rest):
        if measured:
            raise KeyboardInterrupt
        measured.append(row.name)
        return measure(row, *rest)

    monkeypatch.setattr(commands, "measure", interrupted)
    return measured


def test_run_writes_every_variant_of_every_row_with_a_verdict_and_a_page(out, monkeypatch, capsys):
    others = iter((0.0, 1e6, 1e6))
    monkeypatch.setattr(commands, "others_cpu_s", lambda: next(others))
    assert run(out, page=True) == 0
    assert keys(out) == KEYS
    for saved in storage.read(out):
        assert saved.environment.device_name == "Here"
        assert 0 < saved.quantiles.p10_s <= saved.quantiles.median_s <= saved.quantiles.p99_s
    shown = capsys.readouterr()
    for name in ROWS:
        # What others have slowed down is no measure of how many times as fast it is.
        assert re.search(rf"^(ahead|even|behind) +{name}: nfkern .*, eager [^(]*$", shown.out, re.MULTILINE)
    assert (
        "\nmeasured beside nfkern: eager\nnfkern at its fastest is ahead of eager PyTorch, the only peer " in shown.out
    )
    assert shown.out.index("Here was busy: others took ") < shown.out.index(f" {ROWS[0]}: nfkern ")
    assert "Overview" in out.with_suffix(".html").read_text()
    # Meanwhile it says what it is doing.
    first, second = (shown.err.index(f"{name}: ") for name in ROWS)
    stages = [shown.err.index(f", {stage}]", first) for stage in ("eager", "nfkern", "timing 0 %", "timing 100 %")]
    assert [first, *stages, second] == sorted([first, *stages, second])
    # Nothing is measured again, so that nothing is said of the machine.
    assert run(out, resume=True, threads=1) == 0
    shown = capsys.readouterr().out
    assert "busy" not in shown
    assert re.search(rf"{ROWS[0]}: nfkern .*, eager .*x\)$", shown, re.MULTILINE)


def test_packages_that_the_page_lacks_are_named_before_anything_is_measured(out, monkeypatch, capsys):
    monkeypatch.setattr(files, "find_spec", lambda name: None if name in ("polars", "vl_convert") else name)
    monkeypatch.setattr(commands, "measure", lambda *rest: print("measured") or measure(*rest))
    assert run(out, page=True) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("no page will be written, which needs polars, vl_convert: `pip install ")
    assert first.endswith(f"; `nfkern bench report {out} --html PAGE` makes one later")
    assert second == "measured"
    assert not out.with_suffix(".html").exists()


def test_what_is_not_installed_is_named_with_the_verdict(out, monkeypatch, capsys):
    suite = replace(suites.SUITES["smoke"][0], variants=("eager", "nfkern", "jax_jit", "onnxruntime"))
    monkeypatch.setitem(suites.SUITES, "smoke", (suite,))
    monkeypatch.setattr(declarations, "find_spec", lambda name: None if name in ("jax", "onnxruntime") else name)
    assert run(out) == 0
    lines = capsys.readouterr().out.splitlines()
    place = lines.index("measured beside nfkern: eager")
    assert re.fullmatch(r"skipped, for .* not installed: jax, onnxruntime; `pip install .*jax.*`", lines[place + 1])
    assert lines[place + 2].startswith(
        "nfkern at its fastest is ahead of eager PyTorch, the only peer measured here, in "
    )


@pytest.mark.parametrize(("change", "word"), [(slow, "ahead"), (remembering, "behind")])
def test_another_baseline_is_another_verdict(out, monkeypatch, capsys, change, word):
    changed(monkeypatch, "eager", change)
    assert run(out, match=ROWS[1]) == 0
    assert [each.word for each in timed_rows({"": storage.read(out)})] == [word]
    assert f"{word:6} {ROWS[1]}: nfkern " in capsys.readouterr().out


def test_a_red_gate_is_exit_code_1_and_recorded(out, monkeypatch, capsys):
    changed(monkeypatch, "nfkern", lambda run: lambda x, context: x.sum(1))
    assert run(out) == 1
    assert [saved.error is None for saved in storage.read(out)] == [True, False, True, False]
    assert f"refused: {KEYS[1]}: log_prob: error" in capsys.readouterr().out


def test_an_interrupted_run_keeps_its_rows_and_resumes(out, monkeypatch, capsys):
    measured = interrupt_after_a_row(monkeypatch)
    assert run(out) == 130
    assert "--resume goes on" in capsys.readouterr().out
    first = storage.read(out)
    assert keys(out) == KEYS[:2]
    monkeypatch.setattr(commands, "measure", lambda row, *rest: measured.append(row.name) or measure(row, *rest))
    assert run(out, resume=True) == 0
    assert (measured, storage.read(out)[:2], keys(out)) == (ROWS, first, KEYS)


def test_a_resumed_run_that_is_interrupted_again_keeps_the_numbers_that_were_there(out, monkeypatch):
    run(out, variants=("nfkern",))
    first = storage.read(out)
    interrupt_after_a_row(monkeypatch)
    assert run(out, resume=True) == 130
    assert first[1] in storage.read(out)
    assert len(keys(out)) == 3


def test_resume_measures_refused_rows_again_and_keeps_those_that_it_does_not_measure(out):
    run(out)
    refuse_the_first(out)
    assert run(out, match="tiny-4", resume=True) == 1
    assert storage.read(out)[0].error == "red"
    assert run(out, resume=True) == 0
    assert all(saved.error is None for saved in storage.read(out))
    assert sorted(keys(out)) == sorted(KEYS)


def test_a_run_can_be_of_some_variants_and_goes_on_with_others(out, monkeypatch):
    assert run(out, match="log_prob-tiny-4-", variants=("nfk",)) == 0
    assert keys(out) == KEYS[3:]
    first = storage.read(out)
    assert run(out, match="log_prob-tiny-4-", variants=("nfkern",), resume=True) == 0
    assert storage.read(out) == first
    # The others take turns with what is there already, so that is measured again, in the order declared.
    assert run(out, match="log_prob-tiny-4-", resume=True) == 0
    assert keys(out) == KEYS[2:]
    assert first[0] not in storage.read(out)
    # What the suite does not have any more comes after what it has: ratios refer to the first.
    monkeypatch.setitem(suites.SUITES, "smoke", (replace(suites.SUITES["smoke"][0], variants=("nfkern_frozen",)),))
    assert run(out, match="tiny-4", resume=True) == 0
    assert [saved.variant for saved in storage.read(out)] == ["nfkern_frozen", "eager", "nfkern"]


def test_run_never_mixes_or_replaces_silently(out):
    storage.write(out, [record()])
    with pytest.raises(UserError, match="--resume .* --overwrite"):
        run(out)
    with pytest.raises(UserError, match="cannot be mixed"):
        run(out, resume=True)
    assert storage.read(out) == [record()]
    assert run(out, overwrite=True) == 0
    assert record().key not in keys(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "nothing"}, "no row of smoke contains"),
        ({"variants": ("jax", "tf")}, "no variant of these rows contains 'jax' or 'tf'"),
        ({"device": "tpu"}, "expected cpu or cuda, got 'tpu'"),
        ({"threads": 0}, "--threads: expected at least 1, got 0"),
    ],
)
def test_run_explains_what_it_cannot_do(out, options, message):
    with pytest.raises(UserError, match=message):
        run(out, **options)


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=r"--out: expected a file, got the folder"):
        run(tmp_path, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out: .*file/records.json cannot be written"):
        run(tmp_path / "file" / "records.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_list_names_rows_and_variants(capsys):
    assert commands.List("quick").run() == 0
    out = capsys.readouterr().out
    assert out.startswith("suites:\n  smoke  ")
    assert all(f"  {name} " in out.split("studies")[0] for name in suites.SUITES)
    for name in (*registry.VARIANTS, "inverse-ogbench-1-threads_1", "training_step-ogbench-256-threads_1"):
        assert name in out


@pytest.mark.slow
def test_suite_runs_on_pytest_benchmark(tmp_path):
    out = tmp_path / "pytest.json"
    options = ["--suite=smoke", f"--benchmark-json={out}", "--benchmark-max-time=0.001", "--benchmark-min-rounds=2"]
    command = [sys.executable, "-m", "pytest", "bench", "-q", "-p", "no:cacheprovider", "-k", "inverse-tiny", *options]
    # pytest-benchmark measures nothing in what it takes for a worker of pytest-xdist; other plugins take seconds.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command += ["-p", "pytest_benchmark.plugin"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    found = [msgspec.convert(item["extra_info"], storage.Record) for item in json.loads(out.read_text())["benchmarks"]]
    variants = ("eager", "eager_plu_once", "nfkern", "nfkern_frozen", "nfkern_frozen_bf16")
    assert {(saved.work, saved.batch, saved.variant) for saved in found} == {
        ("inverse", batch, variant) for batch in (1, 4) for variant in variants
    }
    assert all(saved.quantiles.repeats >= 2 for saved in found)
