"""What the page says of each row, how to measure it again, and which files it takes."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from support.bench_records import ENVIRONMENT, record, refused, spread
from support.bench_rows import row
from support.quality_results import results

from nfkern.bench import commands
from nfkern.bench.core import records as storage
from nfkern.bench.core.declarations import Benchmark
from nfkern.bench.core.units import size
from nfkern.bench.registry import VARIANTS, WORKS
from nfkern.bench.report.page import details, growth, kinds, machines, plot
from nfkern.bench.report.page.reproduction import reproduction
from nfkern.bench.report.page.rows import timed_rows
from nfkern.bench.studies import records as studies
from nfkern.errors import UserError

CPU = torch.device("cpu")
RESULTS = Path(__file__).parents[3] / "bench" / "results"


def test_details_say_what_sets_a_variant_apart():
    records = [record("eager"), record("nfkern_frozen_bf16", precision="bf16"), record("zuko", parameters=12_345)]
    html = details.details([row(*records, refused("nfkern", "<wrong>"))], {str(ENVIRONMENT): 7})
    assert "1,017,006 parameters; machine 7, clock 3000 MHz; records.json" in html
    assert "<td>eager</td>" in html
    assert "nfkern_frozen_bf16 <small>bf16</small>" in html
    assert "zuko <small>12,345 parameters</small> <i>(same size, not the same function)</i>" in html
    assert "refused: &lt;wrong&gt;" in html
    assert '<th scope="col">memory</th>' not in html
    assert "; with what was not measured here: " in html
    again = "<code>nfkern bench run --suite quick --match inverse-ogbench-256-threads_1"
    assert f"Measure it again, at commit {ENVIRONMENT.commit}: {again}" in html


def test_details_have_memory_where_it_was_measured():
    records = [record("eager", peak_bytes=12_340_000), record("nfkern")]
    html = details.details([row(*records)], {str(ENVIRONMENT): 1})
    assert html.count('<th scope="col">memory</th>') == 1
    assert '<td data-value="12340000">12.3 MB</td>' in html


def test_rows_of_two_files_are_two_rows():
    found = timed_rows({"one.json": [record(batch=256), record(batch=1)], "two.json": [record(batch=1)]})
    assert [(each.first.batch, each.file) for each in found] == [(1, "one.json"), (1, "two.json"), (256, "one.json")]
    assert len({each.anchor for each in found}) == 3
    assert found[1].title == "inverse, ogbench, batch 1, 1 thread (two.json)"


def test_the_command_is_of_the_suite_that_has_most_of_the_row(monkeypatch):
    monkeypatch.setattr(
        "nfkern.bench.report.page.reproduction.SUITES",
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


def test_variants_say_what_they_are_and_how_they_were_checked():
    html = machines.variants([record("zuko"), record("gemm"), record("no_longer_known")])
    assert "<li><b>zuko</b>: zuko's coupling flow of this size (same size, not the same function)</li>" in html.replace(
        "&#x27;", "'"
    )
    assert "no_longer_known" not in html
    assert "held to themselves in float64" in html


def test_machines_are_the_distinct_environments():
    backends = {"a": "native", "b": "native", "c": "reference"}
    other = replace(ENVIRONMENT, commit="0123456789abcdef-dirty", backends=backends)
    records = [record(), record("eager"), record(batch=1, environment=other, clock="2000 MHz")]
    html = machines.machines(timed_rows({"one.json": records}))
    assert html.count("<tr>") == 3
    common = ("Example CPU &lt;1&gt; (cpu)", "reference (1 op)", "torch 2.13.0")
    for words in (*common, "0123456789ab with changes", "2000 MHz"):
        assert words in html, words
    assert "native (2 ops); reference: c" in html


def test_growth_has_a_picture_and_exponents_for_each_family():
    slower = {"nfkern": 1, "eager": 3}
    records = [record(name, spread(1e-5 * x * slower[name]), batch=x) for name in slower for x in (1, 16, 256)]
    html = growth.growth({"one.json": records})
    assert (html.count("<figure>"), html.count("inverse against batch")) == (1, 1)
    assert "case ogbench, threads 1" in html
    assert re.findall(r'<td data-value="1">1.00</td>', html)
    assert "1 to 256" in html
    # Once at its curve, once in the table; the slower one lies above and comes first.
    assert re.findall(r'data-curve="(\w+)"', html) == ["eager", "nfkern", "eager", "nfkern"]
    assert growth.growth({"one.json": records[:2]}) == "<p>No 3 records of a file differ in one axis only.</p>"


def test_memory_grows_in_pictures_of_its_own():
    records = [record("nfkern", spread(1e-3), work="training_step", peak_bytes=1000 * x, batch=x) for x in (1, 16, 256)]
    html = growth.growth({"one.json": records})
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    assert titles == ["training_step against batch", "training_step, memory against batch"]
    assert "256 kB</td>" in html
    assert ">100 kB</text>" in html
    # Time is constant, memory proportional.
    assert re.findall(r">(-?\d\.\d\d)</td>", html) == ["0.00", "0.00", "1.00", "1.00", "1.00", "1.00"]


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512 B"), (1200, "1.20 kB"), (45_600_000, "45.6 MB"), (2.5e9, "2.50 GB")]
)
def test_sizes_have_three_digits(number, text):
    assert size(number) == text


# The control loop has one batch, so that no curve shows its many policies.
@pytest.mark.parametrize("work", [name for name in WORKS if name != "control_loop"])
def test_variants_of_a_work_look_different_without_their_colours(work):
    looks = [replace(plot.look(name), colour="") for name, variant in VARIANTS.items() if work in variant.builders]
    assert len(set(looks)) == len(looks)


def test_numbers_at_the_ends_of_curves_do_not_overlap():
    places = [400.0, 401.0, 402.0, 419.0, 100.0, 99.0, 12.0]
    moved = plot._apart(places)
    assert sorted(range(7), key=moved.__getitem__) == sorted(range(7), key=places.__getitem__)
    gaps = [b - a for a, b in zip(sorted(moved), sorted(moved)[1:], strict=False)]
    assert min(gaps) >= plot._LINE - 1e-9
    assert min(moved) >= plot._TOP
    assert max(moved) <= plot._BOTTOM


def test_files_are_told_apart_by_what_they_hold(tmp_path):
    times, fits = tmp_path / "a.json", tmp_path / "b.json"
    storage.write(times, [record("eager", spread(4e-3)), record()])
    studies.write(fits, results())
    html = kinds.to_html([fits, times])
    titles = re.findall(r"<h2 [^>]*>(.*?)</h2>", html)
    assert titles == [
        *("Overview", "Where nfkern loses", "How time and memory grow", "Machines", "Variants", "Every row"),
        "Quality beside speed",
    ]
    assert re.findall(r'<li><a href="#[^"]*">(.*?)</a>', html) == titles
    assert "data:image/png;base64," in html
    assert "b.json: " in html


@pytest.mark.parametrize("text", ["[1, 2]", "{", json.dumps({"work": "x"}), "words"])
def test_other_files_are_refused_with_both_kinds(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    message = "other.json: is neither benchmark records .*bench run.* nor results of densities .*bench quality"
    with pytest.raises(UserError, match=message):
        kinds.to_html([path])


def test_what_is_wrong_with_files_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="missing.json: cannot be read .*`nfkern bench run --out .* or `nfkern bench q"):
        kinds.to_html([tmp_path / "missing.json"])
    times, fits = tmp_path / "a.json", tmp_path / "b.json"
    storage.write(times, [record()])
    with pytest.raises(UserError, match="files: expected different ones"):
        kinds.to_html([times, tmp_path / ".." / tmp_path.name / "a.json"])
    studies.write(fits, results())
    monkeypatch.setattr(kinds, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package matplotlib: `pip install 'nfkern\\[log\\]'`"):
        kinds.to_html([fits])
    assert "Overview" in kinds.to_html([times])


@pytest.mark.slow
def test_the_page_of_the_recorded_rows_stays_small():
    """Under two megabytes: a phone loads it at once."""
    for path in sorted(RESULTS.rglob("*.json")):
        assert len(kinds.to_html([path]).encode()) < 2_000_000, path
