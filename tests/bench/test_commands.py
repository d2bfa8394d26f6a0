"""The commands, on a suite of milliseconds."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from support.bench_records import ENVIRONMENT, record, refused, spread

from nfkern.bench import commands, registry, suites
from nfkern.bench.core import records as storage
from nfkern.bench.core.declarations import Benchmark, Implementation, Variant
from nfkern.bench.core.units import duration
from nfkern.bench.report import compare
from nfkern.bench.runner import measure
from nfkern.errors import UserError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def tiny_suite(monkeypatch):
    """`smoke` is two rows of two variants, on a machine that is not the one of `bench_records`."""
    suite = (Benchmark("log_prob", ("tiny",), (1, 4), ("eager", "nfkern"), threads=("one",)),)
    monkeypatch.setitem(suites.SUITES, "smoke", suite)
    monkeypatch.setattr(commands, "current_environment", lambda device: replace(ENVIRONMENT, device_name="Here"))


def keys(path):
    return [saved.key for saved in storage.read(path)]


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


def test_run_writes_every_variant_of_every_row(tmp_path, tiny_suite):
    out = tmp_path / "records.jsonl"
    assert commands.Run(out, "smoke").run() == 0
    assert keys(out) == [f"log_prob-tiny-{batch}-threads_1-{name}" for batch in (1, 4) for name in ("eager", "nfkern")]
    for saved in storage.read(out):
        assert saved.environment.device_name == "Here"
        assert 0 < saved.quantiles.p10_s <= saved.quantiles.median_s <= saved.quantiles.p99_s


def test_run_says_what_it_is_doing(tmp_path, tiny_suite, capsys):
    assert commands.Run(tmp_path / "records.jsonl", "smoke").run() == 0
    shown = capsys.readouterr().err
    first, second = (shown.index(f"log_prob-tiny-{batch}-threads_1: ") for batch in (1, 4))
    stages = [shown.index(f", {stage}]", first) for stage in ("eager", "nfkern", "timing 0 %", "timing 100 %")]
    assert [first, *stages, second] == sorted([first, *stages, second])
    assert " of 2 rows [00:" in shown


def test_a_red_gate_is_exit_code_1_and_recorded(tmp_path, tiny_suite, monkeypatch, capsys):
    wrong = Variant("nfkern", "", {"log_prob": lambda problem: Implementation(lambda x, context: x.sum(1))})
    monkeypatch.setitem(registry.VARIANTS, "nfkern", wrong)
    out = tmp_path / "records.jsonl"
    assert commands.Run(out, "smoke").run() == 1
    assert [saved.error is None for saved in storage.read(out)] == [True, False, True, False]
    assert "refused: log_prob-tiny-1-threads_1-nfkern: log_prob: error" in capsys.readouterr().out


def test_an_interrupted_run_keeps_its_rows_and_resumes(tmp_path, tiny_suite, monkeypatch, capsys):
    out, measured = tmp_path / "records.jsonl", interrupt_after_a_row(monkeypatch)
    assert commands.Run(out, "smoke").run() == 130
    assert "--resume goes on" in capsys.readouterr().out
    first = storage.read(out)
    assert len(first) == 2
    monkeypatch.setattr(commands, "measure", lambda row, *rest: measured.append(row.name) or measure(row, *rest))
    assert commands.Run(out, "smoke", resume=True).run() == 0
    assert measured == ["log_prob-tiny-1-threads_1", "log_prob-tiny-4-threads_1"]
    assert storage.read(out)[:2] == first
    assert len(keys(out)) == 4


def test_a_resumed_run_that_is_interrupted_again_keeps_the_numbers_that_were_there(tmp_path, tiny_suite, monkeypatch):
    out, part = tmp_path / "records.jsonl", {"suite": "smoke", "variants": ("nfkern",)}
    commands.Run(out, **part).run()
    first = storage.read(out)
    interrupt_after_a_row(monkeypatch)
    assert commands.Run(out, "smoke", resume=True).run() == 130
    assert first[1] in storage.read(out)
    assert len(keys(out)) == 3


def test_variants_are_measured_as_declared(tmp_path, tiny_suite, monkeypatch):
    """Ratios refer to the first."""
    out, suite = tmp_path / "records.jsonl", suites.SUITES["smoke"]
    commands.Run(out, "smoke", match="tiny-1-", variants=("eager",)).run()
    monkeypatch.setitem(suites.SUITES, "smoke", (replace(suite[0], batches=(1,), variants=("nfkern",)),))
    assert commands.Run(out, "smoke", resume=True).run() == 0
    assert [saved.variant for saved in storage.read(out)] == ["nfkern", "eager"]


def test_resume_measures_refused_rows_again(tmp_path, tiny_suite):
    out = tmp_path / "records.jsonl"
    commands.Run(out, "smoke").run()
    saved = storage.read(out)
    storage.write(out, [replace(saved[0], quantiles=None, error="red"), *saved[1:]])
    assert commands.Run(out, "smoke", resume=True).run() == 0
    assert all(record.error is None for record in storage.read(out))
    assert len(keys(out)) == 4


def test_run_never_mixes_or_replaces_silently(tmp_path, tiny_suite):
    out = tmp_path / "records.jsonl"
    storage.write(out, [record()])
    with pytest.raises(UserError, match="--resume .* --overwrite"):
        commands.Run(out, "smoke").run()
    with pytest.raises(UserError, match="cannot be mixed"):
        commands.Run(out, "smoke", resume=True).run()
    assert storage.read(out) == [record()]
    assert commands.Run(out, "smoke", overwrite=True).run() == 0
    assert record().key not in keys(out)


def test_a_run_can_be_of_some_variants_and_goes_on_with_others(tmp_path, tiny_suite):
    out, part = tmp_path / "records.jsonl", {"suite": "smoke", "match": "log_prob-tiny-4-"}
    assert commands.Run(out, **part, variants=("nfk",)).run() == 0
    assert keys(out) == ["log_prob-tiny-4-threads_1-nfkern"]
    first = storage.read(out)
    assert commands.Run(out, **part, variants=("nfkern",), resume=True).run() == 0
    assert storage.read(out) == first
    # The others take turns with what is there already, so that is measured again.
    assert commands.Run(out, **part, variants=("eager",), resume=True).run() == 0
    assert keys(out) == ["log_prob-tiny-4-threads_1-eager", "log_prob-tiny-4-threads_1-nfkern"]
    assert first[0] not in storage.read(out)


def test_resume_keeps_refused_rows_that_it_does_not_measure(tmp_path, tiny_suite):
    out = tmp_path / "records.jsonl"
    commands.Run(out, "smoke").run()
    saved = storage.read(out)
    storage.write(out, [replace(saved[0], quantiles=None, error="red"), *saved[1:]])
    assert commands.Run(out, "smoke", match="tiny-4", resume=True).run() == 1
    assert storage.read(out)[0].error == "red"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "nothing"}, "no row of smoke contains"),
        ({"variants": ("jax", "tf")}, "no variant of these rows contains 'jax' or 'tf'"),
        ({"device": "tpu"}, "expected cpu or cuda, got 'tpu'"),
    ],
)
def test_run_explains_what_it_cannot_do(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        commands.Run(tmp_path / "records.jsonl", "smoke", **options).run()


def test_list_names_rows_and_variants(capsys):
    assert commands.List("quick").run() == 0
    out = capsys.readouterr().out
    for name in (*registry.VARIANTS, "inverse-ogbench-1-threads_1", "training_step-ogbench-256-threads_1"):
        assert name in out


def test_a_row_has_no_threads_at_all(tmp_path):
    with pytest.raises(UserError, match="--threads: expected at least 1, got 0"):
        commands.Run(tmp_path / "records.jsonl", "smoke", threads=0).run()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.names, self.attributes, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_one_page_without_addresses(tmp_path):
    file, page = tmp_path / "records.jsonl", tmp_path / "out" / "report.html"
    storage.write(file, [record("eager", spread(4e-3)), record("nfkern"), refused("eager_compile", "bad <x> & y")])
    assert commands.Report((file,), page).run() == 0
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    # The script's comments are no addresses, nor are the names of SVG's elements.
    assert not re.search(r"https?:|@import|url\(|[\"'(=]//", re.sub(r'xmlns(:xlink)?="[^"]*"', "", text))
    assert not {"src", "srcset"} & {name for name, _ in tags.attributes}
    assert all(value.startswith("#") for name, value in tags.attributes if name == "href")
    assert not {"link", "iframe"} & set(tags.names)
    assert tags.names.count("script") == 1
    assert "refused: bad &lt;x&gt; &amp; y" in text
    assert "Example CPU &lt;1&gt;" in text


def test_run_ends_with_a_verdict_and_a_page(tmp_path, tiny_suite, monkeypatch, capsys):
    out = tmp_path / "records.json"
    others = iter((0.0, 1e6, 1e6))
    monkeypatch.setattr(commands, "others_cpu_s", lambda: next(others))
    assert commands.Run(out, "smoke").run() == 0
    shown = capsys.readouterr().out
    for batch in (1, 4):
        assert re.search(
            rf"^(ahead|even|behind) +log_prob-tiny-{batch}-threads_1: nfkern .*, eager .*x\)$", shown, re.MULTILINE
        )
    assert "nfkern at its fastest is ahead of the best peer in " in shown
    assert "Here was busy: others took " in shown
    assert "Overview" in (tmp_path / "records.html").read_text()
    # Nothing was measured again, so that nothing is said of the machine.
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    assert commands.Run(out, "smoke", resume=True, threads=1).run() == 0
    shown = capsys.readouterr().out
    assert "busy" not in shown
    assert "no page: it needs the package msgspec" in shown


def test_what_does_another_job_is_called_so(tmp_path, capsys):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    rivals = [record("zuko", spread(1e-4)), record("gemm", spread(1e-5)), record("no_longer_known", spread(2e-3))]
    storage.write(before, [record("eager", spread(4e-3)), record("nfkern"), *rivals])
    storage.write(after, [record("eager", spread(4e-3)), record("nfkern")])
    assert compare.Compare(before, after, allow_missing=True).run() == 0
    out = capsys.readouterr().out
    assert "missing       inverse-ogbench-256-threads_1-zuko (same size, not the same function)" in out
    assert "missing       inverse-ogbench-256-threads_1-gemm (a floor, not the whole job)" in out
    assert "within noise  inverse-ogbench-256-threads_1-nfkern: 1.00 ms" in out


def test_report_of_nothing_is_a_user_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no records"):
        commands.Report((tmp_path / "empty.jsonl",), tmp_path / "page.html").run()
    with pytest.raises(UserError, match="FILES: expected at least one"):
        commands.Report((), tmp_path / "page.html").run()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.51e-5, "45.1 us"), (1.2e-3, "1.20 ms"), (2.5, "2.50 s"), (0.123, "123 ms"), (3e-7, "0.30 us"), (0, "0.00 us")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


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


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=r"--out: expected a file, got the folder"):
        commands.Run(tmp_path, "smoke", overwrite=True).run()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out: .*file/records.jsonl cannot be written"):
        commands.Run(tmp_path / "file" / "records.jsonl", "smoke").run()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
