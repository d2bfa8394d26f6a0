"""The tables that people read say what the records say."""

import re
from dataclasses import replace

import pytest
from support.bench_records import record, refused, spread

from nfkern.bench.core import records as storage
from nfkern.bench.report import tables
from nfkern.bench.report.frame import frame
from nfkern.bench.report.published import PUBLISHED, Published
from nfkern.errors import UserError

MARKED = "before\n<!-- bench table times of cpu-x.json: begin -->\nold\n<!-- bench table times: end -->\nafter\n"
TIMES = Published(
    {"inverse, batch 256": ("inverse-ogbench-256", "")},
    {
        **{"eager": ("eager",), "torch.compile": ("eager_compile", "reference_compile"), "zuko": ("zuko",)},
        **{"nfkern": ("nfkern",), "floor": ("weights_read", "gemm")},
    },
    head="flow",
    threads=(1, 2, 4),
)


def test_the_committed_tables_are_the_records(capsys):
    assert tables.Tables(check=True).run() == 0, capsys.readouterr().out


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one published table of one row, measured on one thread and, in part, on two."""
    results = tmp_path / "results"
    results.mkdir()
    (tmp_path / "README.md").write_text(MARKED)
    medians = {"eager": 8e-3, "eager_compile": 5e-3, "reference_compile": 4e-3, "nfkern": 1e-3, "gemm": 2e-3}
    rows = [record(name, spread(seconds)) for name, seconds in medians.items()]
    rows += [refused("zuko"), *(record(name, spread(medians[name] / 2), threads=2) for name in ("eager", "nfkern"))]
    # A GPU check has variants that no suite has; broken off early, it leaves a file without rows.
    storage.write(results / "cpu-x.json", rows)
    storage.write(results / "gpu.json", [record("nfkern_graph", spread(2e-3)), record("eager", spread(3e-3))])
    storage.write(results / "nothing.json", [])
    monkeypatch.setattr(tables, "PUBLISHED", {"times": TIMES})
    monkeypatch.setattr(tables, "RESULTS", results)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    return tmp_path


def test_tables_are_written_from_the_records(checkout, capsys):
    assert tables.Tables(check=True).run() == 1
    assert "README.md is not what the records say" in capsys.readouterr().out
    assert tables.Tables().run() == 0
    # The faster of two compiled forms, no column for what was not measured, and the floor.
    assert (checkout / "README.md").read_text() == MARKED.replace(
        "old\n",
        "| flow | eager | torch.compile | nfkern | floor |\n|---|---|---|---|---|\n"
        "| inverse, batch 256 | 8.00 / 4.00 ms | 4.00 ms / - | 1.00 ms / 500 us | 2.00 ms / - |\n",
    )
    listed = (checkout / "results" / "README.md").read_text()
    assert "## cpu-x.json\n\nExample CPU <1>, 2 cores; 2026-11-20 to 2026-11-20.\n\n### inverse\n" in listed
    assert "| case, batch, threads | eager | eager_compile | reference_compile | nfkern | zuko | gemm |" in listed
    assert "| ogbench, 256, 1 | 8.00 ms | 5.00 ms | 4.00 ms | 1.00 ms |  | 2.00 ms |" in listed
    assert "| case, batch, threads | eager | nfkern_graph |" in listed
    assert "nothing.json" not in listed
    assert tables.Tables(check=True).run() == 0
    file = checkout / "results" / "cpu-x.json"
    first, *others = storage.read(file)
    storage.write(file, [replace(first, quantiles=spread(9e-3)), *others])
    assert tables.Tables(check=True).run() == 1


def test_the_chart_has_the_fastest_of_each_column_on_one_thread(checkout, monkeypatch):
    monkeypatch.setattr(tables, "SPEED", TIMES)
    with open(checkout / "README.md", "a") as readme:
        readme.write("<!-- bench chart of cpu-x.json -->\n![times](speed.svg)\n")
    assert tables.Tables().run() == 0
    drawn = (checkout / "speed.svg").read_text()
    assert re.findall(r">(\d[^<]*)</text>", drawn) == ["8.00 ms", "4.00 ms", "1.00 ms", "2.00 ms"]
    assert ">torch.compile</text>" in drawn
    assert ">zuko</text>" not in drawn
    # Labels end here; in DejaVu Sans, the widest of usual fonts, their letters take 6 px.
    assert float(re.search(r"translate\(([\d.]+),", drawn)[1]) >= 6 * len("torch.compile")
    assert tables.Tables(check=True).run() == 0


def test_many_variants_go_down_the_page(checkout, monkeypatch):
    monkeypatch.setattr(tables, "_MOST_COLUMNS", 5)
    tables.Tables().run()
    listed = (checkout / "results" / "README.md").read_text()
    head = "| case, batch, threads | ogbench, 256, 1 | ogbench, 256, 2 |\n|---|---|---|\n"
    assert head + "| eager | 8.00 ms | 4.00 ms |\n" in listed
    assert "| zuko |  |  |\n| gemm | 2.00 ms |  |\n" in listed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing here\n", "no document has a table times: expected the lines"),
        (MARKED.replace("cpu-x", "gone"), "bench table times of gone.json: expected one of times, of a file of"),
        (MARKED + MARKED.replace("times", "other"), "bench table other of cpu-x.json: expected one of times"),
        (MARKED.replace("cpu-x", "gpu-y"), "inverse-ogbench-256 has no number of the variants that a table shows"),
    ],
)
def test_a_readme_that_asks_for_what_is_not_there_is_left_alone(checkout, text, reason):
    storage.write(checkout / "results" / "gpu-y.json", [refused("nfkern")])
    (checkout / "README.md").write_text(text)
    with pytest.raises(UserError, match=reason):
        tables.Tables().run()
    assert (checkout / "README.md").read_text() == text


def test_a_policy_has_the_tail_of_its_fastest_form_of_equal_size():
    forms = {"": 3e-3, "_compile": 2e-3, "_aot_inductor": 1e-3, "_compile_own_size": 7e-4}
    loop = {"work": "control_loop", "batch": 1}
    rows = frame({"": [record(f"gaussian{form}", spread(seconds), **loop) for form, seconds in forms.items()]})
    policies = replace(PUBLISHED["policies"], lines={"a Gaussian": ("control_loop-ogbench-1", "gaussian")})
    head, line = policies.table(rows)
    assert dict(zip(head, line, strict=True)) == {
        "": "a Gaussian",
        "eager": "3.00 ms",
        "torch.compile": "2.00 ms",
        "AOTInductor": "1.00 ms",
        "p99 of the fastest": "1.06 ms",
        "width 512, torch.compile": "700 us",
    }
    # Without ten thousand calls there is no further tail.
    acting = replace(PUBLISHED["acting"], lines={"naive": ("control_loop-ogbench-1", "gaussian")})
    assert acting.table(rows) == [["", "median", "p99"], ["naive", "3.00 ms", "3.18 ms"]]
