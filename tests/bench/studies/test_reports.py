"""Results of both studies on disk, and as tables between marks, verdicts, pictures and pages."""

import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tyro
from support import quality_results, success_results

from nfkern.bench.commands import page_of
from nfkern.bench.report.page import to_html
from nfkern.bench.studies import records
from nfkern.bench.studies.charts import chart, colours_and_shapes
from nfkern.bench.studies.quality.study import Quality
from nfkern.bench.studies.report import BANNER, BEGIN, END, split_markdown, write_reports
from nfkern.bench.studies.success.study import Success
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
def test_recorded_results_stay_readable_with_equal_values(path):
    found = report_of(path.parent.name).read(path)
    assert_has(json.loads(json.dumps(asdict(found))), json.loads(path.read_text()))
    assert report_of(path.parent.name).warnings(found) == []


def test_other_files_are_refused_with_their_name(tmp_path, name):
    path = tmp_path / "other.json"
    later = json.dumps(asdict(MADE[name]()) | {"format_version": 2})
    for text in ("{", "[]", "{}", '{"format_version": 1, "settings": {"steps": 1}}', later, "\xff"):
        path.write_bytes(text.encode("latin1"))
        with pytest.raises(UserError, match="other.json: holds no results"):
            report_of(name).read(path)
    with pytest.raises(UserError, match=f"missing.json: cannot be read .* make one with `nfkern bench {name}"):
        report_of(name).read(tmp_path / "missing.json")


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
        write_reports(report_of(name), found, tmp_path / "none.json", None, path)
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


def test_the_section_of_a_page_has_everything_quoted(name):
    found = replace(MADE[name](), skipped={"ddpm_100": "needs the module <diffusers>"})
    html = to_html({}, [report_of(name).section(found, "<a>.json")])
    for text in ("Example CPU &lt;1&gt;", "ValueError: &lt;bad&gt;", "ddpm_100: skipped, needs the module &lt;diff"):
        assert text in html, text
    assert "at commit abc:</p>\n<p><code>nfkern bench" in html
    assert "made of &lt;a&gt;.json" in html


def test_results_that_are_not_whole_can_be_told(name):
    found = MADE[name]()
    found.latencies = []
    for rows in ("fits", "trials", "trainings", "evaluations"):
        if hasattr(found, rows):
            setattr(found, rows, [])
    assert report_of(name).verdicts(found) == []
    assert "<svg" not in to_html({}, [report_of(name).section(found, "a.json")])
    found.latencies = MADE[name]().latencies
    assert "not evaluated yet" in to_html({}, [report_of(name).section(found, "a.json")])


def test_the_page_of_all_benchmarks_has_each_file_under_its_own_name(tmp_path, name):
    files = [tmp_path / folder / "a.json" for folder in ("one", "two")]
    for file in files:
        records.write(file, MADE[name]())
    html = page_of(files)
    assert re.findall('<h2 id="(.*)">(.*)</h2>', html) == [
        (f"section-{number}", f"{report_of(name).title}, {folder}/a.json")
        for number, folder in ((1, "one"), (2, "two"))
    ]
    assert "made of one/a.json, two/a.json" in html
    assert str(tmp_path) not in html


def drawn(name, condition, place):
    """What a chart of a study shows of each policy, the height of its dashed line, its front and its scales."""
    report, found = report_of(name), MADE[name]()
    rows, looks = report.rows(found)[condition], colours_and_shapes(report.policies, report.ours)
    made = chart(rows, report.measure, report.costs[place], report.line(found, condition, rows), looks)
    dashed, *others, marks = (layer["data"]["values"] for layer in made["layer"])
    scales = [made["layer"][-1]["encoding"][axis]["scale"].get("type", "linear") for axis in "xy"]
    front = [(point["x"], point["y"]) for point in others[0]] if others else []
    return marks, dashed[0]["y"], front, scales


def test_the_charts_of_densities_have_distances_against_actions_and_trainings():
    for place, costs in ((0, (3e-4, 2e-4, 5e-2)), (1, (12.5, 12.5, 12.5))):
        marks, dashed, front, scales = drawn("quality", "pinwheel", place)
        assert (front, scales) == ([(costs[1], pytest.approx(0.011))], ["log", "log"])
        assert {mark["policy"]: (mark["x"], mark["y"]) for mark in marks} == {
            name: (cost, pytest.approx(y))
            for name, cost, y in zip(("nf", "mixture", "ddpm_100"), costs, (0.031, 0.011, 0.02), strict=True)
        }
        # The density itself costs nothing, and is the dashed line.
        assert dashed == pytest.approx(0.0055)
        assert (marks[0]["high"] - marks[0]["y"], marks[0]["y"] - marks[0]["low"]) == (
            pytest.approx(0.002 / 2**0.5),
            pytest.approx(0.002 / 2**0.5),
        )


def test_the_charts_of_success_have_points_and_curves():
    marks, dashed, front, scales = drawn("success", success_results.MAZE, 0)
    assert (front, scales) == ([(1e-4, 0.5), (3e-4, 0.9375)], ["log", "linear"])
    assert {mark["policy"]: (mark["x"], mark["y"]) for mark in marks} == {
        "nf": (3e-4, 0.9375),
        "gaussian": (1e-4, 0.5),
        "ddim_10": (5e-3, 0.125),
    }
    marks, again, _, scales = drawn("success", success_results.MAZE, 1)
    assert (dashed, again, scales) == (pytest.approx(0.46875), pytest.approx(0.46875), ["linear", "linear"])
    curve = [(mark["x"], mark["y"]) for mark in marks if mark["policy"] == "nf"]
    assert curve == [(6.25, 0.0), (12.5, 0.25), (18.75, 1.0), (25.0, 0.9375)]


def test_one_colour_is_nfkerns_alone_and_every_policy_has_a_look_of_its_own(name):
    report = report_of(name)
    looks = colours_and_shapes(report.policies, report.ours)
    assert len(set(looks.values())) == len(report.policies)
    assert {each for each, (colour, _) in looks.items() if colour == "var(--ours)"} == set(report.ours)
