"""The data behind the page, how to measure a row again, and which files the page takes."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from support.bench_records import ENVIRONMENT, record, refused, spread
from support.bench_rows import row, timed
from support.quality_results import results

from nfkern.bench import commands
from nfkern.bench.core import records as storage
from nfkern.bench.core.declarations import Benchmark
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.report import charts
from nfkern.bench.report.labels import is_ours
from nfkern.bench.report.reproduction import reproduction
from nfkern.bench.report.timings import apart, timings, words
from nfkern.bench.studies import records as studies
from nfkern.bench.studies.quality.report import QUICK
from nfkern.errors import UserError

RESULTS = Path(__file__).parents[3] / "bench" / "results"


def test_what_sets_a_variant_apart_is_said_and_rows_are_found_by_words():
    records = [record("eager"), record("nfkern_frozen_bf16", precision="bf16"), record("zuko", parameters=12_345)]
    found = row(*records)
    assert [apart(each, found) for each in records] == [
        "",
        "bf16",
        "12,345 parameters, same size, not the same function",
    ]
    assert {"inverse", "ogbench", "batch_256", "threads_1", "alone", "zuko", "records.json"} <= set(
        words(found).split()
    )


def test_origins_are_counted():
    rows = [record("eager"), record("nfkern"), record("jax_jit", batch=1), record(batch=1)]
    data = timings({"one.json": rows})
    assert (data["count"], data["days"], data["untuned"], data["incomplete"]) == (4, "2026-11-20", 1, 2)
    assert (data["verdict"], data["trial"]) == (
        "nfkern at its fastest is ahead of the best peer in 0 of 2 rows, even in 2 and behind in 0.",
        False,
    )


def test_machines_are_the_distinct_environments():
    backends = {"a": "native", "b": "native", "c": "reference"}
    other = replace(ENVIRONMENT, commit="0123456789abcdef-dirty", backends=backends)
    records = [record(), record("eager"), record(batch=1, environment=other, clock="2000 MHz", date="2026-11-22T10")]
    data = timings({"one.json": records})
    first, second = data["machines"]
    assert (first["commit"], first["backends"]) == ("0123456789ab with changes", "native (2 ops); reference: c")
    assert (first["clocks"], first["days"], first["rows"]) == ("2000 MHz", "2026-11-22", 1)
    assert (second["versions"], second["backends"]) == ("nfkern 0.1.0, torch 2.13.0", "reference (1 op)")
    assert sorted(data["machine_of"].items()) == [
        ("inverse-ogbench-1-threads_1", 1),
        ("inverse-ogbench-256-threads_1", 2),
    ]


def test_time_and_memory_grow_in_charts_of_their_own():
    slower = {"nfkern": 1, "eager": 3}
    records = [
        record(name, spread(1e-5 * x * slower[name]), peak_bytes=1000, batch=x) for name in slower for x in (1, 16, 256)
    ]
    time, memory = timings({"one.json": records})["families"]
    assert (time["title"], memory["title"]) == ("inverse against batch", "inverse, memory against batch")
    assert time["shared"] == "case ogbench, threads 1"
    assert [(name, end) for name, _, _, end in time["curves"]] == [("eager", "7.68 ms"), ("nfkern", "2.56 ms")]
    assert [(law.exponent, end) for _, law, _, end in memory["curves"]] == [(pytest.approx(0.0), "1.00 kB")] * 2
    assert timings({"one.json": records[:2]})["families"] == []


def test_the_command_is_of_the_suite_that_has_most_of_the_row(monkeypatch):
    monkeypatch.setattr(
        "nfkern.bench.report.reproduction.SUITES",
        {
            "small": (Benchmark("inverse", ("ogbench",), (256,), ("eager", "nfkern")),),
            "large": (Benchmark("inverse", ("ogbench",), (256,), ("eager", "nfkern", "jax_jit")),),
            "memory": (Benchmark("inverse", ("ogbench",), (256,), ("eager", "zuko", "nflows"), memory=True),),
        },
    )
    records = [record(name, threads=3) for name in ("eager", "jax_jit", "zuko")]
    found = reproduction(records)
    assert found.command == (
        "nfkern bench run --suite large --match inverse-ogbench-256-threads_3 --threads 3 "
        "--out inverse-ogbench-256-threads_3.json"
    )
    assert (found.missing, found.further) == (("zuko",), ("nfkern",))
    assert "--suite small" in reproduction(records[:1]).command
    # Only there is memory measured.
    assert "--suite memory" in reproduction([replace(records[0], peak_bytes=1)]).command
    assert reproduction([record(batch=7)]) is None
    # Also of a machine, or a run, whose "all" threads are one.
    assert "--threads 1 " in reproduction([record("eager")]).command
    on_gpu = replace(records[0], environment=replace(ENVIRONMENT, device="cuda"))
    assert "--device cuda" in reproduction([on_gpu]).command


@pytest.mark.parametrize("cores", [1, 16])
def test_commands_of_the_recorded_rows_measure_them_again_on_any_machine(monkeypatch, cores):
    monkeypatch.setattr("torch.get_num_threads", lambda: cores)
    for path in sorted(RESULTS.glob("*.json")):
        for name, records in storage.by_row(storage.read(path)).items():
            found = reproduction(records)
            assert found is not None, name
            run = tyro.cli(commands.Run, args=shlex.split(found.command)[3:])
            (chosen,) = commands._chosen(run.suite, run.match, commands._device(run.device), run.variants, run.threads)
            assert chosen.name == name
            assert {variant.name for variant in chosen.variants} >= {r.variant for r in records} - set(found.missing)


# The control loop has one batch, so that no curve shows its many policies.
@pytest.mark.parametrize("work", [name for name in WORKS if name != "control_loop"])
def test_one_colour_is_nfkerns_alone_and_curves_differ_without_colours(work):
    looks = charts._looks([name for name, variant in VARIANTS.items() if work in variant.builders])
    assert all((colour == "var(--ours)") == is_ours(name) for name, (colour, _, _) in looks.items())
    ours = [str(each[1:]) for name, each in looks.items() if is_ours(name)]
    rivals = [str(each) for name, each in looks.items() if not is_ours(name)]
    assert (len(set(ours)), len(set(rivals))) == (len(ours), len(rivals))


def test_charts_take_their_colours_from_the_page():
    for svg in (charts.leads([timed(nfkern=1, eager=2)]), charts.growth({"nfkern": {1: 1e-3, 2: 2e-3}}, "batch", "s")):
        assert svg.startswith('<svg class="chart" role="img"')
        assert "var(--ours)" in svg
        assert not re.search('(fill|stroke)="#', svg)


def test_files_are_told_apart_by_what_they_hold(tmp_path):
    times, fits = tmp_path / "a.json", tmp_path / "b.json"
    storage.write(times, [record("eager", spread(4e-3)), record(), refused("eager_compile", "bad <x> & y")])
    studies.write(fits, results())
    html = commands.page_of([fits, times])
    titles = re.findall(r"<h2 [^>]*>(.*?)</h2>", html)
    assert titles == [
        *("Overview", "Where nfkern loses", "How time and memory grow", "Machines", "Variants", "Every row"),
        "Quality beside speed",
    ]
    assert re.findall(r'<li><a href="#[^"]*">(.*?)</a>', html) == titles
    assert html.count('<svg class="chart"') == 1 + 4
    assert f"b.json: {results().counted()}, started " in html
    assert 'role="alert"' not in html
    # Text of the files is no markup.
    assert html.count("bad &lt;x&gt; &amp; y") == 2
    assert "Example CPU &lt;1&gt; (cpu)" in html


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = [tmp_path / "a" / "x" / "1.json", tmp_path / "b" / "x" / "1.json", tmp_path / "c" / "2.json"]
    assert list(commands._names(paths).values()) == ["a/x/1.json", "b/x/1.json", "2.json"]


def test_what_only_tries_something_out_says_so(tmp_path):
    times, fits = tmp_path / "a.json", tmp_path / "b.json"
    storage.write(times, [record(case="tiny")])
    studies.write(fits, replace(results(), settings=QUICK))
    banners = re.findall('role="alert">(.*?)</p>', commands.page_of([fits, times]))
    assert [banner.split(":")[0] for banner in banners] == [
        "Quality beside speed",
        "All cases are tiny ones, which only try the suite out. Its numbers mean nothing.",
    ]


@pytest.mark.parametrize("text", ["[1, 2]", "{", json.dumps({"work": "x"}), "words"])
def test_other_files_are_refused_with_both_kinds(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    message = "other.json: is neither benchmark records .*bench run.* nor results of densities .*bench quality"
    with pytest.raises(UserError, match=message):
        commands.page_of([path])


def test_what_is_wrong_with_files_is_said(tmp_path):
    with pytest.raises(UserError, match="missing.json: cannot be read .*`nfkern bench run --out .* or `nfkern bench q"):
        commands.page_of([tmp_path / "missing.json"])
    times = tmp_path / "a.json"
    times.touch()
    with pytest.raises(UserError, match="holds no records"):
        commands.page_of([times])
    storage.write(times, [record()])
    with pytest.raises(UserError, match="files: expected different ones"):
        commands.page_of([times, tmp_path / ".." / tmp_path.name / "a.json"])
    with pytest.raises(UserError, match="FILES: expected at least one"):
        commands.Report((), tmp_path / "page.html").run()


@pytest.mark.slow
def test_the_page_of_the_recorded_rows_stays_small():
    """Under two megabytes: a phone loads it at once."""
    for path in sorted(RESULTS.rglob("*.json")):
        assert len(commands.page_of([path]).encode()) < 2_000_000, path
