"""Results of the quality study: on disk, summed up, as tables, picture and page."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from support.quality_results import fit, results

from nfkern.bench.studies import tables as studies
from nfkern.bench.studies.quality import picture, records, report, summary, tables
from nfkern.bench.studies.quality.commands import Quality
from nfkern.bench.studies.quality.records import TRUTH
from nfkern.bench.studies.summary import Spread, front
from nfkern.errors import UserError

ROOT = Path(__file__).parents[3]


def test_results_come_back_as_they_were(tmp_path):
    path = tmp_path / "new" / "results.json"
    records.write(path, results())
    assert records.read(path) == results()
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"format_version": 2}', json.dumps({"format_version": 1, "settings": {"steps": 1}})],
)
def test_other_files_are_refused_with_their_name(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match="other.json: holds no results"):
        records.read(path)
    with pytest.raises(UserError, match="missing.json: cannot be read .* make one with"):
        records.read(tmp_path / "missing.json")


def test_numbers_that_are_not_finite_are_never_written(tmp_path):
    path, found = tmp_path / "results.json", results()
    records.write(path, found)
    found.fits.append(fit("pinwheel", "nf", 2, float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write(path, found)
    assert records.read(path) == results()


def test_summaries_are_means_and_deviations_over_seeds():
    row = summary.summaries(results())["pinwheel"]["nf"]
    assert row.sliced_wasserstein == Spread(pytest.approx(0.031), pytest.approx(0.002 / 2**0.5))
    assert (row.mmd.mean, row.seeds, row.learning_rate) == (pytest.approx(0.062), 2, 1e-3)
    # -log q is -0.8 and -0.9 where that of the density is -1.
    assert row.kl == Spread(pytest.approx(0.15), pytest.approx(0.1 / 2**0.5))
    assert row.latencies == {1: pytest.approx(3e-4), 256: pytest.approx(48e-4)}
    assert Spread.of([2.0]) == Spread(2.0, None)


def test_a_policy_that_failed_has_its_reason_and_the_others_their_numbers():
    rows = summary.summaries(results())["chunk"]
    assert (rows["ddpm_100"].seeds, rows["ddpm_100"].error) == (0, "ValueError: <bad>")
    assert rows["ddpm_100"].sliced_wasserstein is None
    assert rows["nf"].error is None
    assert rows[TRUTH].sliced_wasserstein.mean == pytest.approx(0.0055)


def test_the_front_has_what_nothing_is_preferable_to():
    points = {"fast": (1.0, 9.0), "slower_and_worse": (2.0, 10.0), "near": (3.0, 1.0), "same_time": (3.0, 2.0)}
    assert front(points | {"slow_and_as_near": (4.0, 1.0)}) == ["fast", "near"]
    assert front({}) == []


def test_ahead_are_those_nearer_by_more_than_the_seeds_spread():
    found = summary.summaries(results())
    assert summary.ahead(found["pinwheel"], "nf") == ["mixture", "ddpm_100"]
    # 0.031 and 0.032 with deviations of 0.0014: no difference, and the density itself is no rival.
    assert summary.ahead(found["chunk"], "nf") == []


def test_tables_have_every_density_and_what_cannot_be_is_empty():
    head, rows = tables.distances(results())
    assert head == ["policy", "pinwheel", "chunk"]
    assert rows[0] == ["nf", "0.0310 ± 0.0014", "0.0310 ± 0.0014"]
    assert rows[2] == ["ddpm_100", "0.0200 ± 0.0000", ""]
    assert rows[3] == ["the density itself", "0.0055 ± 0.0007", "0.0055 ± 0.0007"]
    assert [row[0] for row in tables.divergences(results())[1]] == ["nf", "mixture"]
    assert tables.modes(results())[1][0] == ["nf", "75 % / 10 %", "75 % / 10 %"]
    head, rows = tables.costs(results())
    assert head[1:5] == ["parameters", "act, 1 x 2", "act, 256 x 2", "training, 2"]
    assert rows[0][1:5] == ["64,000", "300 us", "4.80 ms", "12.5 s"]


def test_tables_say_who_is_ahead_of_the_flow():
    sentences = tables.verdicts(results())
    assert "pinwheel: nearer to the density than nf, beyond the seeds' spread: mixture, ddpm_100." in sentences
    assert "chunk: nearer to the density than nf, beyond the seeds' spread: no other policy." in sentences
    assert "pinwheel: no policy is both faster and nearer than these: mixture." in sentences
    assert "chunk: no policy is both faster and nearer than these: mixture, nf." in sentences


def test_one_seed_is_not_said_to_have_a_spread():
    found = results()
    found = replace(
        found, settings=replace(found.settings, seeds=(0,)), fits=[fit for fit in found.fits if fit.seed == 0]
    )
    assert "pinwheel: nearer to the density than nf, by one seed, whose spread is not known: mixture, ddpm_100." in (
        tables.verdicts(found)
    )
    assert " 1 seed, about 64,000 parameters" in tables.described(found)


def test_tables_go_between_the_marks_and_nowhere_else(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"above\n{studies.BEGIN}\nold\n{studies.END}\nbelow\n")
    for _ in range(2):
        studies.update_markdown(path, tables.to_markdown(results()))
        text = path.read_text()
        assert text.startswith(f"above\n{studies.BEGIN}\n\nMeasured on Example CPU")
        assert text.endswith(f"\n\n{studies.END}\nbelow\n")
        assert text.count("| nf |") == 5
    path.write_text("no marks")
    with pytest.raises(UserError, match="expected a line <!-- from the records: begin -->"):
        studies.update_markdown(path, tables.to_markdown(results()))


def test_the_page_has_every_number_and_needs_nothing_else():
    found = results()
    found = replace(found, skipped={"spline": "needs the module zuko"})
    html = report.body(found)
    for text in ("Example CPU &lt;1&gt;", "0.0310 ± 0.0014", "ValueError: &lt;bad&gt;", "spline: skipped, needs the"):
        assert text in html, text
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "<script" not in html


@pytest.mark.parametrize(
    "chosen",
    [
        Quality(Path("x.json")),
        Quality(Path("x.json"), quick=True, densities=("pinwheel", "chunk"), steps=6),
        Quality(Path("x.json"), policies=("nf", "gaussian"), seeds=2, parameters=2000),
    ],
)
def test_the_page_has_the_command_that_makes_the_results_again(chosen):
    found = replace(results(), settings=chosen._settings(), fits=[])
    (shown,) = re.findall("at commit abc: <code>nfkern bench quality (.*?)</code>", report.body(found))
    assert tyro.cli(Quality, args=shlex.split(shown))._settings() == found.settings


def test_the_picture_has_a_panel_for_each_density_and_one_style_for_each_policy(monkeypatch):
    found, original = [], picture.Figure
    monkeypatch.setattr(picture, "Figure", lambda **options: found.append(original(**options)) or found[-1])
    assert picture.pareto(results()).startswith(b"\x89PNG")
    pinwheel, chunk, legend = found[0].axes
    assert (pinwheel.get_xscale(), pinwheel.get_title(), chunk.get_title()) == ("log", "pinwheel", "chunk")
    marked = {tuple(line.get_xydata()[0]) for line in pinwheel.lines if line.get_marker() not in ("None", "")}
    assert {(0.3, 0.031), (0.2, 0.011), (50.0, 0.02)} <= {(round(x, 6), round(y, 6)) for x, y in marked}
    floor = next(line for line in pinwheel.lines if line.get_linestyle() == "--")
    assert floor.get_ydata()[0] == pytest.approx(0.0055)
    assert [text.get_text() for text in legend.get_legend().get_texts()] == ["nf", "mixture", "ddpm_100"]
    styles = [tuple(picture._style(name)[key] for key in ("color", "marker")) for name in picture.POLICIES]
    assert len(set(styles)) == len(styles)


def test_the_picture_of_trainings_has_their_seconds_and_leaves_out_the_density_itself(monkeypatch):
    drawn, original = [], picture.Figure
    monkeypatch.setattr(picture, "Figure", lambda **options: drawn.append(original(**options)) or drawn[-1])
    picture.pareto(results(), picture.TRAINING)
    pinwheel = drawn[0].axes[0]
    marked = {tuple(line.get_xydata()[0].round(6)) for line in pinwheel.lines if line.get_marker() not in ("None", "")}
    assert {(12.5, 0.031), (12.5, 0.011), (12.5, 0.02)} <= marked
    assert (12.5, 0.0055) not in marked
    assert pinwheel.get_xlabel() == "training, CPU seconds"


def test_the_documentation_has_the_tables_of_the_newest_record_and_no_others():
    _, between, _ = studies.split_markdown(ROOT / "docs" / "quality.md")
    found = sorted((ROOT / "bench" / "results" / "quality").glob("*.json"))
    assert between.strip() == (tables.to_markdown(records.read(found[-1])) if found else "")


def test_two_ways_through_one_training_differ_in_every_record():
    """Of a training that has collapsed all ways to sample are alike: such a record says nothing of the policies."""
    for path in (ROOT / "bench" / "results" / "quality").glob("*.json"):
        for found in summary.summaries(records.read(path)).values():
            for fewer, more in (("flow_matching_1", "flow_matching_10"), ("ddim_10", "ddpm_100")):
                assert found[fewer].sliced_wasserstein.mean > 1.05 * found[more].sliced_wasserstein.mean


@pytest.mark.parametrize(
    ("seconds", "shown"), [([], ""), ([3.0, 1.0, 2.0], "2.00 s"), ([8.0, 1.0, 3.0, 2.0], "2.50 s")]
)
def test_costs_are_medians_over_the_densities(seconds, shown):
    assert tables._median(seconds) == shown
