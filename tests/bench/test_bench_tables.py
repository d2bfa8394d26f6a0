"""The tables that people read say what the records say."""

from dataclasses import replace

import pytest
from bench_records import record, refused, spread

from nfkern.bench import records as storage
from nfkern.bench import tables
from nfkern.errors import UserError


def test_the_committed_tables_are_the_records(capsys):
    assert tables.Tables(check=True).run() == 0, capsys.readouterr().out


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one row of the overview."""
    results, readme = tmp_path / "results", tmp_path / "README.md"
    results.mkdir()
    readme.write_text(f"before\n{tables.BEGIN}old\n{tables.END}after\n")
    rows = [
        record("eager", spread(8e-3)),
        record("eager_compile", spread(5e-3)),
        record("reference_compile", spread(4e-3)),
        record("nfkern", spread(1e-3)),
        refused("zuko"),
        record("gemm", spread(2e-3)),
    ]
    storage.write(results / tables.OVERVIEW_FILE, rows)
    monkeypatch.setattr(tables, "RESULTS", results)
    monkeypatch.setattr(tables, "README", readme)
    monkeypatch.setattr(tables, "OVERVIEW_ROWS", {"inverse, batch 256": rows[0].row})
    monkeypatch.setattr(tables, "OVERVIEW_FLOORS", {rows[0].row: ("gemm",)})
    return tmp_path


def test_tables_are_written_from_the_records(checkout, capsys):
    assert tables.Tables(check=True).run() == 1
    assert "README.md is not what the records say" in capsys.readouterr().out
    assert tables.Tables().run() == 0
    text = (checkout / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    # The faster of two compiled forms, nothing for what was not measured, and the floor.
    assert "| inverse, batch 256 | 8.00 ms | 4.00 ms |  |  |  | 1.00 ms |  |  | 2.00 ms |" in text
    listed = (checkout / "results" / "README.md").read_text()
    assert "| case, batch, threads | eager | eager_compile | reference_compile | nfkern | zuko | gemm |" in listed
    assert "| ogbench, 256, 1 | 8.00 ms | 5.00 ms | 4.00 ms | 1.00 ms |  | 2.00 ms |" in listed
    assert tables.Tables(check=True).run() == 0
    file = checkout / "results" / tables.OVERVIEW_FILE
    first, *others = storage.read(file)
    storage.write(file, [replace(first, quantiles=spread(9e-3)), *others])
    assert tables.Tables(check=True).run() == 1


def test_many_variants_go_down_the_page(checkout, monkeypatch):
    monkeypatch.setattr(tables, "_MOST_COLUMNS", 5)
    tables.Tables().run()
    listed = (checkout / "results" / "README.md").read_text()
    assert "| case, batch, threads | ogbench, 256, 1 |\n|---|---|\n| eager | 8.00 ms |\n" in listed
    assert "| zuko |  |\n| gemm | 2.00 ms |\n" in listed


def test_a_readme_without_its_marks_is_left_alone(checkout):
    (checkout / "README.md").write_text("nothing here\n")
    with pytest.raises(UserError, match="expected the lines"):
        tables.Tables().run()
    assert (checkout / "README.md").read_text() == "nothing here\n"
