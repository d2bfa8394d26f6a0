"""The data behind the page, how to measure a row again, and which files the page takes."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from support.bench_records import ENVIRONMENT, record, refused, spread
from support.bench_rows import timed
from support.quality_results import results

from nfkern.bench import commands
from nfkern.bench.core import records as storage
from nfkern.bench.core.declarations import Benchmark
from nfkern.bench.core.units import size
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.report import charts
from nfkern.bench.report.labels import is_ours
from nfkern.bench.report.reproduction import reproduction
from nfkern.bench.report.timings import timings
from nfkern.bench.studies import records as studies
from nfkern.bench.studies.quality.report import QUICK
from nfkern.errors import UserError

CPU = torch.device("cpu")
RESULTS = Path(__file__).parents[3] / "bench" / "results"


def cells(table, line=0):
    """What a line of a table shows, by the names of its columns."""
    return dict(zip(table.head, table.lines[line].cells, strict=False))


def test_the_overview_has_a_line_for_each_row_and_its_verdict():
    data = timings({"one.json": [record("eager", spread(4e-3)), record("nfkern"), record("gemm", spread(5e-4))]})
    shown = cells(data["overview"])
    assert (shown["verdict"].text, shown["ratio"].text, shown["ratio"].value) == ("ahead", "4.00", pytest.approx(4.0))
    assert (shown["nfkern"].text, shown["best peer"].note, shown["floor"].text) == ("1.00 ms", "eager", "500 us")
    assert shown["to floor"].value == pytest.approx(2.0)
    words = data["overview"].lines[0].words.split()
    assert {"inverse", "ogbench", "batch_256", "threads_1", "ahead", "nfkern", "gemm", "one.json"} <= set(words)
    assert data["verdict"].startswith("nfkern at its fastest is ahead")
    assert data["origin"] == "3 records of 1 rows, measured 2026-11-20."
    assert data["incomplete"].startswith("In 1 of them eager PyTorch is the only peer. 1 rows lack variants")


def test_losses_are_told_with_their_noise():
    once = record("jax_jit", replace(spread(9e-4), repeats=1), batch=1)
    single = [once, record(batch=1), record("nfkern_frozen", spread(9.5e-4), batch=1)]
    slow, other = [record("eager", spread(5e-4)), record("nfkern")], record("zuko", spread(1e-4))
    data = timings({"": [*slow, other, refused("nfkern_frozen", "<wrong>"), *single]})
    assert [each.text for each in data["behind"].lines[0].cells[1:]] == [
        *("1.00 ms", "980 us to 1.02 ms"),
        *("500 us", "490 us to 510 us", "0.50"),
    ]
    # Of one call nothing is known.
    assert data["called"].lines[0].cells[4].text == "unknown"
    assert cells(data["refused"])["reason"].text == "<wrong>"
    assert cells(data["others"])["note"].text == "same size, not the same function"


def test_details_say_what_sets_a_variant_apart():
    records = [record("eager"), record("nfkern_frozen_bf16", precision="bf16"), record("zuko", parameters=12_345)]
    (row,) = timings({"one.json": [*records, refused("nfkern", "<wrong>")]})["rows"]
    assert row["origin"] == "inference, 1,017,006 parameters; machine 1, clock 3000 MHz; one.json"
    notes = [line.cells[0].note for line in row["table"].lines]
    assert notes == ["", "bf16", "12,345 parameters, same size, not the same function", ""]
    assert [line.kind for line in row["table"].lines] == ["best", "", "", "refused"]
    assert row["table"].lines[3].cells[1].text == "refused: <wrong>"
    assert "memory" not in row["table"].head
    assert row["beside"].startswith("; with what was not measured here: ")
    assert row["again"] == f"Measure it again, at commit {ENVIRONMENT.commit}"
    assert row["command"].startswith("nfkern bench run --suite quick --match inverse-ogbench-256-threads_1")


def test_details_have_memory_and_steps_where_they_were_measured():
    (row,) = timings({"": [record("eager", peak_bytes=12_340_000), record("nfkern")]})["rows"]
    assert [line.cells[-1].text for line in row["table"].lines] == ["12.3 MB", ""]
    (row,) = timings({"": [record("nf_gcbc", spread(8.0), work="goal_conditioned_run")]})["rows"]
    assert cells(row["table"])["steps a second"].text == "25.0"


def test_the_command_is_of_the_suite_that_has_most_of_the_row(monkeypatch):
    monkeypatch.setattr(
        "nfkern.bench.report.reproduction.SUITES",
        {
            "small": (Benchmark("inverse", ("ogbench",), (256,), ("eager", "nfkern")),),
            "large": (Benchmark("inverse", ("ogbench",), (256,), ("eager", "nfkern", "jax_jit")),),
            "memory": (Benchmark("inverse", ("ogbench",), (256,), ("eager", "zuko", "nflows"), memory=True),),
        },
    )
    records = [record("eager", threads=3), record("jax_jit", threads=3), record("zuko", threads=3)]
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
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    for path in sorted(RESULTS.glob("*.json")):
        for name, records in storage.by_row(storage.read(path)).items():
            found = reproduction(records)
            assert found is not None, name
            run = tyro.cli(commands.Run, args=shlex.split(found.command)[3:])
            (row,) = commands._chosen(run.suite, run.match, CPU, run.variants, run.threads)
            assert row.name == name
            assert {variant.name for variant in row.variants} >= {r.variant for r in records} - set(found.missing)


def test_machines_are_the_distinct_environments():
    backends = {"a": "native", "b": "native", "c": "reference"}
    other = replace(ENVIRONMENT, commit="0123456789abcdef-dirty", backends=backends)
    records = [record(), record("eager"), record(batch=1, environment=other, clock="2000 MHz")]
    table = timings({"one.json": records})["machines"]
    assert len(table.lines) == 2
    shown = [[cell.text for cell in line.cells] for line in table.lines]
    assert [shown[0][i] for i in (3, 5, 6, 8)] == [
        "0123456789ab with changes",
        "native (2 ops); reference: c",
        "2000 MHz",
        1,
    ]
    assert [shown[1][i] for i in (1, 5, 8)] == ["Example CPU <1> (cpu)", "reference (1 op)", 1]


def test_time_and_memory_grow_in_charts_of_their_own():
    slower = {"nfkern": 1, "eager": 3}
    records = [
        record(name, spread(1e-5 * x * slower[name]), peak_bytes=1000, batch=x) for name in slower for x in (1, 16, 256)
    ]
    time, memory = timings({"one.json": records})["families"]
    assert (time["title"], memory["title"]) == ("inverse against batch", "inverse, memory against batch")
    assert time["shared"] == "case ogbench, threads 1"
    # The slower one lies above and comes first.
    shown = [[cell.text for cell in line.cells] for line in time["fits"].lines]
    assert shown == [
        ["eager", "1.00", "1.00", "1.00", "1 to 256", 3, "7.68 ms"],
        ["nfkern", "1.00", "1.00", "1.00", "1 to 256", 3, "2.56 ms"],
    ]
    assert [cell.text for cell in memory["fits"].lines[0].cells[1:3]] == ["0.00", "0.00"]
    assert timings({"one.json": records[:2]})["families"] == []


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512 B"), (1200, "1.20 kB"), (45_600_000, "45.6 MB"), (2.5e9, "2.50 GB")]
)
def test_sizes_have_three_digits(number, text):
    assert size(number) == text


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
    storage.write(times, [record("eager", spread(4e-3)), record()])
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
    storage.write(times, [record()])
    with pytest.raises(UserError, match="files: expected different ones"):
        commands.page_of([times, tmp_path / ".." / tmp_path.name / "a.json"])


@pytest.mark.slow
def test_the_page_of_the_recorded_rows_stays_small():
    """Under two megabytes: a phone loads it at once."""
    for path in sorted(RESULTS.rglob("*.json")):
        assert len(commands.page_of([path]).encode()) < 2_000_000, path
