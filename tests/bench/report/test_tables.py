"""The tables that people read say what the records say."""

from dataclasses import replace
from functools import partial

import pytest
from support.bench_records import record, refused, spread

from nfkern.bench.core import records as storage
from nfkern.bench.report import published, tables
from nfkern.bench.report.frame import frame
from nfkern.errors import UserError

ROW = record().row
MARKED = "before\n<!-- bench table times of cpu-x.json: begin -->\nold\n<!-- bench table times: end -->\nafter\n"


def test_the_committed_tables_are_the_records(capsys):
    assert tables.Tables(check=True).run() == 0, capsys.readouterr().out


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one published table of one row, measured on one thread and, in part, on two."""
    results, readme = tmp_path / "results", tmp_path / "README.md"
    results.mkdir()
    readme.write_text(MARKED)
    rows = [
        record("eager", spread(8e-3)),
        record("eager_compile", spread(5e-3)),
        record("reference_compile", spread(4e-3)),
        record("nfkern", spread(1e-3)),
        refused("zuko"),
        record("gemm", spread(2e-3)),
        record("eager", spread(4e-3), threads=2),
        record("nfkern", spread(0.5e-3), threads=2),
    ]
    storage.write(results / "cpu-x.json", rows)
    columns = {"eager": ("eager",), "compiled": ("eager_compile", "reference_compile"), "zuko": ("zuko",)}
    make = partial(
        published.times,
        titles={"inverse, batch 256": "inverse-ogbench-256"},
        columns=columns | {"nfkern": ("nfkern",)},
        head="flow",
        threads=(1, 2),
        floor=True,
    )
    monkeypatch.setattr(tables, "PUBLISHED", {"times": make})
    monkeypatch.setattr(tables, "RESULTS", results)
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    return tmp_path


def test_tables_are_written_from_the_records(checkout, capsys):
    assert tables.Tables(check=True).run() == 1
    assert "README.md is not what the records say" in capsys.readouterr().out
    assert tables.Tables().run() == 0
    text = (checkout / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    # The faster of two compiled forms, no column for what was not measured, and the floor.
    assert "| flow | eager | compiled | nfkern | floor |\n|---|---|---|---|---|\n" in text
    assert "| inverse, batch 256 | 8.00 / 4.00 ms | 4.00 ms / - | 1.00 ms / 500 us | 2.00 ms / - |" in text
    listed = (checkout / "results" / "README.md").read_text()
    assert "| case, batch, threads | eager | eager_compile | reference_compile | nfkern | zuko | gemm |" in listed
    assert "| ogbench, 256, 1 | 8.00 ms | 5.00 ms | 4.00 ms | 1.00 ms |  | 2.00 ms |" in listed
    assert tables.Tables(check=True).run() == 0
    file = checkout / "results" / "cpu-x.json"
    first, *others = storage.read(file)
    storage.write(file, [replace(first, quantiles=spread(9e-3)), *others])
    assert tables.Tables(check=True).run() == 1


def test_many_variants_go_down_the_page(checkout, monkeypatch):
    monkeypatch.setattr(tables, "_MOST_COLUMNS", 5)
    tables.Tables().run()
    listed = (checkout / "results" / "README.md").read_text()
    assert (
        "| case, batch, threads | ogbench, 256, 1 | ogbench, 256, 2 |\n|---|---|---|\n| eager | 8.00 ms | 4.00 ms |\n"
        in listed
    )
    assert "| zuko |  |  |\n| gemm | 2.00 ms |  |\n" in listed


def test_records_of_a_gpu_check_are_listed(checkout):
    """It has variants that no suite has; broken off early, it leaves a file without rows."""
    results = checkout / "results"
    storage.write(results / "gpu.json", [record("nfkern_graph", spread(2e-3)), record("eager", spread(3e-3))])
    storage.write(results / "nothing.json", [])
    tables.Tables().run()
    listed = (results / "README.md").read_text()
    assert "| case, batch, threads | eager | nfkern_graph |" in listed
    assert "nothing.json" not in listed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing here\n", "no document has a table times: expected the lines"),
        (
            MARKED.replace("cpu-x", "gone"),
            "bench table times of gone.json: expected one of times, of a file of records",
        ),
        (MARKED + MARKED.replace("times", "other"), "bench table other of cpu-x.json: expected one of times"),
    ],
)
def test_a_readme_whose_marks_are_wrong_is_left_alone(checkout, text, reason):
    (checkout / "README.md").write_text(text)
    with pytest.raises(UserError, match=reason):
        tables.Tables().run()
    assert (checkout / "README.md").read_text() == text


def test_a_table_of_a_variant_without_a_number_is_refused():
    rows = frame({"": [record("eager"), refused("nfkern")]})
    assert published.tails(rows, ROW, {"naive": "eager"})[1] == ["naive", "1.00 ms", "1.06 ms", ""]
    with pytest.raises(UserError, match="has no number of nfkern"):
        published.tails(rows, ROW, {"ours": "nfkern"})


def test_a_policy_has_the_tail_of_its_fastest_form_of_equal_size():
    forms = {
        "": 3e-3,
        "_compile": 2e-3,
        "_aot_inductor": 1e-3,
        "_compile_own_size": 7e-4,
        "_aot_inductor_own_size": 5e-4,
    }
    rows = frame({"": [record(f"gaussian{form}", spread(seconds)) for form, seconds in forms.items()]})
    head, line = published.policies(rows, ROW, {"a Gaussian": "gaussian"})
    assert dict(zip(head, line, strict=True)) == {
        "": "a Gaussian",
        "eager": "3.00 ms",
        "torch.compile": "2.00 ms",
        "AOTInductor": "1.00 ms",
        "p99 of the fastest": "1.06 ms",
        "width 512, torch.compile": "700 us",
        "width 512, AOTInductor": "500 us",
    }
