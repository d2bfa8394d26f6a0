"""Results of both studies on disk, and as tables between marks, verdicts, pictures and pages."""

import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tyro
from support import quality_results, success_results

from nfkern.bench.report import page
from nfkern.bench.studies import picture, records
from nfkern.bench.studies.quality.commands import Quality
from nfkern.bench.studies.report import BANNER, BEGIN, END, split_markdown, write_reports
from nfkern.bench.studies.success.commands import Success
from nfkern.bench.studies.summary import Measure, Row, Spread, front
from nfkern.errors import UserError

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "bench" / "results"
COMMANDS = {"quality": Quality, "success": Success}
MADE = {"quality": quality_results.results, "success": success_results.results}
RECORDED = sorted((*RESULTS.glob("quality/*.json"), *RESULTS.glob("success/*.json")))


@pytest.fixture(params=COMMANDS)
def name(request):
    return request.param


def report_of(name):
    return COMMANDS[name].report


def test_results_come_back_as_they_were_and_are_told_from_others(tmp_path, name):
    path = tmp_path / "new" / "results.json"
    records.write(path, MADE[name]())
    assert report_of(name).read(path) == MADE[name]()
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]
    assert page.kind_of(path).command == f"nfkern bench {name}"
    (other,) = set(COMMANDS) - {name}
    with pytest.raises(UserError, match=f"results.json: holds no results of `nfkern bench {other}`"):
        report_of(other).read(path)


def assert_has(found, recorded):
    """Everything that was recorded is there; fields that came later are, too, with their defaults."""
    if isinstance(recorded, dict):
        for key, value in recorded.items():
            assert_has(found[key], value)
    elif isinstance(recorded, list):
        for one, other in zip(found, recorded, strict=True):
            assert_has(one, other)
    else:
        assert found == recorded


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_results_stay_readable_with_equal_values(tmp_path, path):
    found = report_of(path.parent.name).read(path)
    assert_has(json.loads(json.dumps(asdict(found))), json.loads(path.read_text()))
    records.write(tmp_path / "again.json", found)
    assert report_of(path.parent.name).read(tmp_path / "again.json") == found
    assert report_of(path.parent.name).warnings(found) == []


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"format_version": 2}', json.dumps({"format_version": 1, "settings": {"steps": 1}})]
)
def test_other_files_are_refused_with_their_name(tmp_path, name, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match="other.json: holds no results"):
        report_of(name).read(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="other.json: holds no results"):
        report_of(name).read(path)
    with pytest.raises(UserError, match=f"missing.json: cannot be read .* make one with `nfkern bench {name}"):
        report_of(name).read(tmp_path / "missing.json")


def test_results_of_a_later_format_are_refused(tmp_path, name):
    path = tmp_path / "later.json"
    path.write_text(json.dumps(asdict(MADE[name]()) | {"format_version": 2}))
    with pytest.raises(UserError, match="format_version"):
        report_of(name).read(path)


def test_numbers_that_are_not_finite_are_never_written(tmp_path):
    path, found = tmp_path / "results.json", quality_results.results()
    records.write(path, found)
    found.fits.append(quality_results.fit("pinwheel", "nf", 2, float("nan")))
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write(path, found)
    assert report_of("quality").read(path) == quality_results.results()


def test_the_front_has_what_nothing_is_preferable_to():
    points = {"fast": (1.0, 9.0), "slower_and_worse": (2.0, 10.0), "near": (3.0, 1.0), "same_time": (3.0, 2.0)}
    assert front(points | {"slow_and_as_near": (4.0, 1.0)}) == ["fast", "near"]
    assert front({}) == []


@pytest.mark.parametrize(("sign", "expected"), [(1, ["less", "a_bit_less"]), (-1, ["more"])])
def test_ahead_are_those_better_by_more_than_the_seeds_spread(sign, expected):
    values = {"ours": (3.0, 5.0), "less": (0.5,), "a_bit_less": (1.0, 1.2), "level": (2.7,), "more": (8.0,)}
    rows = {name: Row({"x": some}) for name, some in values.items()} | {"failed": Row({}, error="bad")}
    assert rows["ours"].spread("x") == Spread(4.0, pytest.approx(2**0.5))
    assert (rows["less"].spread("x"), rows["less"].spread("y")) == (Spread(0.5, None), None)
    assert Measure("x", "x", sign).ahead(rows, "ours", {*rows, "unknown"} - {"ours"}) == expected


def test_one_seed_is_not_said_to_have_a_spread(name):
    found = MADE[name]()
    assert "beyond the seeds' spread" in report_of(name).verdicts(found)[0]
    found.settings = replace(found.settings, seeds=(0,))
    assert "by one seed, whose spread is not known" in report_of(name).verdicts(found)[0]
    assert re.search(r"\b1 seed\b", report_of(name).described(found))


def test_tables_go_between_the_marks_and_nowhere_else(tmp_path, name, capsys):
    path, found = tmp_path / "page.md", MADE[name]()
    path.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    for _ in range(2):
        write_reports(tmp_path / "none.json", None, path, lambda: report_of(name).to_markdown(found))
        text = path.read_text()
        assert text.startswith(f"above\n{BEGIN}\n\nMeasured on Example CPU")
        assert text.endswith(f"\n\n{END}\nbelow\n")
        assert text.count("| nf |") == {"quality": 5, "success": 4}[name]
    path.write_text("no marks")
    with pytest.raises(UserError, match="expected a line <!-- from the records: begin -->"):
        split_markdown(path)


@pytest.mark.parametrize(
    ("document", "study", "sized"),
    [("quality.md", "quality", True), ("success.md", "success", False), ("success-equal-size.md", "success", True)],
)
def test_each_document_has_the_tables_of_its_newest_record_and_no_others(document, study, sized):
    _, between, _ = split_markdown(ROOT / "docs" / "records" / document)
    found = [report_of(study).read(path) for path in RECORDED if path.parent.name == study]
    mine = [each for each in found if (each.settings.parameters is not None) == sized]
    assert between.strip() == report_of(study).to_markdown(max(mine, key=lambda each: each.started))


@pytest.mark.parametrize(
    "chosen",
    [
        Quality(Path("x.json")),
        Quality(Path("x.json"), quick=True, densities=("pinwheel", "chunk"), steps=6),
        Quality(Path("x.json"), policies=("nf", "gaussian"), seeds=2, parameters=2000),
        Success(Path("x.json")),
        Success(Path("x.json"), quick=True, steps=200, threads=2),
        Success(Path("x.json"), envs=(success_results.MAZE,), policies=("nf",), seeds=3, parameters=2000, target=0.5),
    ],
    ids=lambda chosen: f"{type(chosen).__name__}-{chosen.quick}-{chosen.seeds}",
)
def test_results_have_the_command_that_makes_them_again_and_a_quick_study_says_that_it_is_one(chosen):
    name = type(chosen).__name__.lower()
    report, found = report_of(name), replace(MADE[name](), settings=chosen.settings())
    *command, out, file = shlex.split(report.again(found))[:5]
    assert (command, out, file) == (["nfkern", "bench", name], "--out", f"{name}.json")
    again = tyro.cli(type(chosen), args=shlex.split(report.again(found))[3:])
    assert again.settings() == found.settings
    assert (report.warnings(found) == [BANNER], BANNER in report.to_markdown(found)) == (chosen.quick, chosen.quick)


def test_pages_quote_what_they_show_and_need_nothing_else(name):
    found = replace(MADE[name](), skipped={"ddpm_100": "needs the module <diffusers>"})
    html = report_of(name).to_html(found)
    for text in ("Example CPU &lt;1&gt;", "ValueError: &lt;bad&gt;", "ddpm_100: skipped, needs the module &lt;diff"):
        assert text in html, text
    assert "at commit abc: <code>nfkern bench" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "<script" not in html


def test_results_that_are_not_whole_can_be_told(name):
    found = MADE[name]()
    found.latencies = []
    for rows in ("fits", "trials", "trainings", "evaluations"):
        if hasattr(found, rows):
            setattr(found, rows, [])
    assert report_of(name).verdicts(found) == []
    assert "<img" not in report_of(name).to_html(found)
    found.latencies = MADE[name]().latencies
    assert "not evaluated yet" in report_of(name).to_html(found)


def test_the_page_of_all_benchmarks_has_each_file_under_its_own_name(tmp_path, name):
    for folder in ("one", "two"):
        records.write(tmp_path / folder / "a.json", MADE[name]())
    html = page.to_html([tmp_path / "one" / "a.json", tmp_path / "two" / "a.json"])
    assert f'<h2 id="{name}-2">{report_of(name).title}, two/a.json</h2>' in html
    assert report_of(name).to_html(MADE[name]()) in html
    assert "made of one/a.json, two/a.json" in html
    assert str(tmp_path) not in html


def drawn(name, monkeypatch):
    """The axes of a study's picture."""
    figures, original = [], picture.Figure
    monkeypatch.setattr(picture, "Figure", lambda **options: figures.append(original(**options)) or figures[-1])
    report, found = report_of(name), MADE[name]()
    rows, look = report.rows(found), picture.styles(report.policies, report.ours)
    lines = {each: report.line(found, each) for each in rows}
    assert picture.draw(rows, lines, report.measure, report.costs, look).startswith(b"\x89PNG")
    return figures[0].axes


def marks(axis):
    """The points that have a mark, one of each line."""
    lines = [line for line in axis.lines if line.get_marker() in ("o", "s", "^")]
    return {tuple(line.get_xydata()[0].round(6).tolist()) for line in lines}


def dashed(axis):
    return next(line for line in axis.lines if line.get_linestyle() == "--").get_ydata()[0]


def test_the_picture_of_densities_has_distances_against_actions_and_trainings(monkeypatch):
    action, training, legend, other, *_ = drawn("quality", monkeypatch)
    assert [axis.get_title() for axis in (action, training, other)] == ["pinwheel", "pinwheel", "chunk"]
    assert (action.get_xscale(), action.get_yscale()) == ("log", "log")
    assert marks(action) == {(0.3, 0.031), (0.2, 0.011), (50.0, 0.02)}
    # The density itself costs nothing, and is the dashed line.
    assert marks(training) == {(12.5, 0.031), (12.5, 0.011), (12.5, 0.02)}
    assert (dashed(action), dashed(training)) == (pytest.approx(0.0055), pytest.approx(0.0055))
    assert [text.get_text() for text in legend.get_legend().get_texts()] == ["nf", "mixture", "ddpm_100"]


def test_the_picture_of_success_has_points_and_curves(monkeypatch):
    latency, training, legend, *_ = drawn("success", monkeypatch)
    assert (latency.get_xscale(), latency.get_title()) == ("log", success_results.MAZE)
    assert marks(latency) == {(0.3, 0.9375), (0.1, 0.5), (5.0, 0.125)}
    flow = next(line for line in training.lines if line.get_markersize() == 10)
    assert flow.get_xydata().tolist() == [[6.25, 0.0], [12.5, 0.25], [18.75, 1.0], [25.0, 0.9375]]
    assert dashed(training) == pytest.approx(0.46875)
    assert [text.get_text() for text in legend.get_legend().get_texts()] == ["nf", "gaussian", "ddim_10", "ddpm_100"]


def test_every_policy_has_a_style_of_its_own(name):
    report = report_of(name)
    looks = picture.styles(report.policies, report.ours).values()
    assert len({(look["color"], look["marker"]) for look in looks}) == len(report.policies)
    assert sum(look["markersize"] == 10 for look in looks) == len(report.ours)
