"""Results of the study in the simulator: on disk, summed up, as tables, picture and page."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from support.quality_results import results as quality_results
from support.success_results import CUBE, MAZE, evaluation, results

from nfkern.bench.report import page
from nfkern.bench.studies.quality import records as quality
from nfkern.bench.studies.success import picture, records, report, summary, tables
from nfkern.bench.studies.success.commands import Success
from nfkern.bench.studies.summary import Spread
from nfkern.bench.studies.tables import split_markdown
from nfkern.errors import UserError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]


def test_results_come_back_as_they_were_and_are_told_from_others(tmp_path):
    path, other = tmp_path / "new" / "results.json", tmp_path / "quality.json"
    records.write(path, results())
    assert records.read(path) == results()
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    quality.write(other, quality_results())
    assert [page.kind_of(file).command for file in (path, other)] == ["nfkern bench success", "nfkern bench quality"]
    with pytest.raises(UserError, match="quality.json: holds no results of `nfkern bench success`"):
        records.read(other)


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"format_version": 2})])
def test_other_files_are_refused_with_their_name(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match="other.json: holds no results"):
        records.read(path)
    with pytest.raises(UserError, match="missing.json: cannot be read .* make one with `nfkern bench success"):
        records.read(tmp_path / "missing.json")


def test_the_time_to_a_success_is_that_of_the_first_evaluation_that_has_it():
    rows = [evaluation("nf", 0, step, successes) for step, successes in ((500, (2, 0)), (250, (1, 0)), (750, (0, 0)))]
    assert [row.success for row in rows] == [0.5, 0.25, 0.0]
    # At 50 steps a second; the evaluations need not be in order, nor does success have to last.
    times = [summary.time_to(rows, 50.0, wanted) for wanted in (0.2, 0.25, 0.3, 0.5, 0.51)]
    assert times == [5.0, 5.0, 10.0, 10.0, None]
    failed = replace(rows[1], successes=(), error="ValueError: bad")
    assert summary.time_to([failed, rows[0]], 50.0, 0.2) == 10.0
    assert summary.time_to([], 50.0, 0.2) is None


def test_times_are_told_to_half_of_the_best_success_unless_a_target_is_set():
    found = results()
    # The flow: 8 and 7 of 8 episodes.
    assert summary.target(found, MAZE) == pytest.approx(0.5 * (1 + 7 / 8) / 2)
    assert summary.target(found, CUBE) is None
    found.settings = replace(found.settings, target=0.25)
    assert (summary.target(found, MAZE), summary.target(found, CUBE)) == (0.25, 0.25)
    rows = summary.summaries(found)
    assert rows[MAZE]["nf"].times == (500 / 40, 500 / 40)
    assert rows[CUBE]["nf"].times == (None, None)


def test_summaries_are_over_seeds():
    rows = summary.summaries(results())[MAZE]
    row = rows["nf"]
    assert row.success == Spread(pytest.approx(0.9375), pytest.approx(0.125 / 2**0.5))
    assert row.by_task == (1.0, pytest.approx(0.875))
    assert row.curve == {250: 0.0, 500: 0.25, 750: 1.0, 1000: pytest.approx(0.9375)}
    assert row.times == (750 / 40, 750 / 40)
    assert (row.seeds, row.steps_per_second, row.training_s, row.parameters) == (2, 40.0, 25.0, 500_000)
    assert row.latencies == {1: pytest.approx(3e-4), 50: pytest.approx(3e-4 * 50**0.5)}
    # One task always and one never: any value is within reach of another choice of tasks.
    assert rows["gaussian"].interval.low < 0.1 < 0.9 < rows["gaussian"].interval.high
    assert (rows["ddpm_100"].seeds, rows["ddpm_100"].success, rows["ddpm_100"].error) == (0, None, "ValueError: <bad>")
    assert (rows["ddim_10"].steps_per_second, rows["ddpm_100"].steps_per_second) == (80.0, 80.0)


def test_ahead_are_those_with_more_success_by_more_than_the_seeds_spread():
    found = results()
    rows = summary.summaries(found)[MAZE]
    assert (summary.ahead(rows, "nf"), summary.ahead(rows | {"nf": rows["ddim_10"]}, "nf")) == ([], ["gaussian"])
    close = replace(rows["nf"], success=Spread(0.45, 0.1))
    assert summary.ahead(rows | {"nf": close}, "nf") == []


def test_tables_have_every_number_and_say_what_is_missing():
    found = results()
    head, rows = tables.of_environment(found, MAZE)
    assert head[3:5] == ["goals 1 to 2", "training to 47 %"]
    lines = {row[0]: row[1:] for row in rows}
    assert lines["nf"][:1] + lines["nf"][2:] == [
        *("94 %", "100, 88", "18.8 s", "40", "25.0 s", "300 us", "2.12 ms", "500,000")
    ]
    # 2 of 4 episodes at 500 steps reach 47 %.
    assert lines["gaussian"][3] == "2.50 s"
    assert lines["ddim_10"][3] == "not reached"
    assert lines["ddpm_100"] == [
        "failed: ValueError: <bad>",
        "",
        "",
        "",
        "80",
        "12.5 s",
        "50.0 ms",
        "354 ms",
        "500,000",
    ]
    assert all(len(row) == len(head) for row in rows)
    head, rows = tables.curves(found, MAZE)
    assert head == ["policy", "250 steps", "500 steps", "750 steps", "1,000 steps"]
    assert rows[1] == ["gaussian", "0 %", "50 %", "50 %", "50 %"]
    assert [row[0] for row in rows] == ["nf", "gaussian", "ddim_10"]
    assert tables.of_environment(found, CUBE)[0][4] == "training to any success"
    assert tables.of_environment(found, CUBE)[1][0][4] == ""


def test_a_target_that_some_seeds_reached_says_how_many():
    found = results()
    found.evaluations = [
        replace(row, successes=(0, 0)) if (row.policy, row.seed) == ("gaussian", 1) else row
        for row in found.evaluations
    ]
    found.settings = replace(found.settings, target=0.5)
    assert {row[0]: row[4] for row in tables.of_environment(found, MAZE)[1]}["gaussian"] == "2.50 s, 1 of 2 seeds"
    assert f"{MAZE}: 50 % success is reached with every seed, soonest first, by nf (18.8 s)." in tables.verdicts(found)


def test_verdicts_say_who_is_ahead_and_who_is_soonest():
    sentences = tables.verdicts(results())
    assert f"{MAZE}: more success than nf, beyond the seeds' spread: no other policy." in sentences
    assert (
        f"{MAZE}: 47 % success is reached with every seed, soonest first, by gaussian (2.50 s), nf (18.8 s)."
        in sentences
    )
    assert f"{MAZE}: no policy both acts faster and succeeds more often than these: gaussian, nf." in sentences
    assert [each for each in sentences if each.startswith(CUBE)] == [
        f"{CUBE}: more success than nf, beyond the seeds' spread: no other policy.",
        f"{CUBE}: no policy has any success.",
    ]
    one = results()
    one.settings = replace(one.settings, seeds=(0,))
    assert "by one seed, whose spread is not known" in tables.verdicts(one)[0]


def test_results_that_are_not_whole_can_be_told():
    found = results()
    found.trainings, found.evaluations = [], []
    rows = tables.of_environment(found, MAZE)[1]
    assert rows[0] == ["nf", "not evaluated yet", "", "", "", "", "", "300 us", "2.12 ms", ""]
    assert tables.verdicts(found) == []
    assert "not evaluated yet" in report.body(found)
    found.latencies = []
    assert "<img" not in report.body(found)


def test_the_page_has_every_number_and_needs_nothing_else():
    found = replace(results(), skipped={"ddpm_100": "needs the module diffusers"})
    html = report.body(found)
    for text in ("Example CPU &lt;1&gt;", "100, 88", "ValueError: &lt;bad&gt;", "ddpm_100: skipped, needs the module"):
        assert text in html, text
    assert f"{MAZE} with 100,000 transitions" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "<script" not in html


@pytest.mark.parametrize(
    "chosen",
    [
        Success(Path("x.json")),
        Success(Path("x.json"), quick=True, steps=200, threads=2),
        Success(Path("x.json"), envs=(MAZE,), policies=("nf", "gaussian"), seeds=3, parameters=2000, target=0.5),
    ],
)
def test_the_page_has_the_command_that_makes_the_results_again(chosen):
    found = replace(results(), settings=chosen._settings(), evaluations=[], trainings=[])
    (shown,) = re.findall("at commit abc: <code>nfkern bench success (.*?)</code>", report.body(found))
    assert tyro.cli(Success, args=shlex.split(shown))._settings() == found.settings


def test_the_page_of_all_benchmarks_has_the_study(tmp_path):
    for name in ("a.json", "b.json"):
        records.write(tmp_path / name, results())
    html = page.to_html([tmp_path / "a.json", tmp_path / "b.json"])
    assert '<h2 id="success-2">Success beside cost, b.json</h2>' in html
    assert report.body(results()) in html


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for folder in ("one", "two"):
        records.write(tmp_path / folder / "a.json", results())
    html = page.to_html([tmp_path / "one" / "a.json", tmp_path / "two" / "a.json"])
    assert "made of one/a.json, two/a.json" in html
    assert str(tmp_path) not in html


def test_the_picture_has_two_panels_for_each_environment(monkeypatch):
    found, original = [], picture.Figure
    monkeypatch.setattr(picture, "Figure", lambda **options: found.append(original(**options)) or found[-1])
    assert picture.success(results()).startswith(b"\x89PNG")
    latency, training, legend, *_ = found[0].axes
    assert (latency.get_xscale(), latency.get_title(), training.get_title()) == ("log", MAZE, MAZE)
    marked = {tuple(line.get_xydata()[0].round(6)) for line in latency.lines if line.get_marker() not in ("None", "")}
    assert {(0.3, 0.9375), (0.1, 0.5), (5.0, 0.125)} <= marked
    flow = next(line for line in training.lines if line.get_markersize() == 10)
    assert flow.get_xydata().tolist() == [[6.25, 0.0], [12.5, 0.25], [18.75, 1.0], [25.0, 0.9375]]
    dashed = next(line for line in training.lines if line.get_linestyle() == "--")
    assert dashed.get_ydata()[0] == pytest.approx(0.46875)
    assert [text.get_text() for text in legend.get_legend().get_texts()] == ["nf", "gaussian", "ddim_10", "ddpm_100"]


@pytest.mark.parametrize(("document", "equal"), [("success.md", False), ("success-equal-size.md", True)])
def test_each_document_has_the_tables_of_its_newest_record_and_no_others(document, equal):
    _, between, _ = split_markdown(ROOT / "docs" / document)
    found = [records.read(path) for path in sorted((ROOT / "bench" / "results" / "success").glob("*.json"))]
    mine = [each for each in found if (each.settings.parameters is not None) == equal]
    assert between.strip() == (tables.to_markdown(max(mine, key=lambda each: each.started)) if mine else "")
