"""The guard: passes while enough of the recorded lead is left, and fails for a slower stub."""

from dataclasses import replace

import pytest
from support.bench_records import ENVIRONMENT, record, refused, spread

from nfkern.bench import registry
from nfkern.bench.core.declarations import Benchmark, rows
from nfkern.bench.core.files import RESULTS
from nfkern.bench.report import guard
from nfkern.bench.report.frame import frame, read
from nfkern.cli import commands as cli
from nfkern.errors import UserError

# Ten times as fast, of which a third of the lead is four times, half of it five and a half.
RECORDED = {record("nfkern").key: 10.0}


@pytest.mark.parametrize(
    ("eager_s", "nfkern_s", "kept", "least", "passed"),
    [
        (10, 1, 1 / 3, 4, True),
        (4.1, 1, 1 / 3, 4, True),
        (3.9, 1, 1 / 3, 4, False),
        # The machine's speed does not matter.
        (410, 100, 1 / 3, 4, True),
        (5, 1, 1 / 2, 5.5, False),
    ],
)
def test_a_share_of_the_lead_has_to_be_left(eager_s, nfkern_s, kept, least, passed):
    measured = [record("eager", spread(eager_s)), record("nfkern", spread(nfkern_s))]
    (found,) = guard.findings(measured, RECORDED, kept)
    assert (found.lead, found.least) == pytest.approx((eager_s / nfkern_s, least))
    assert found.passed == passed


def test_what_has_no_number_has_fallen_behind_and_a_baseline_without_one_ends_it():
    (finding,) = guard.findings([record("eager"), refused("nfkern", "x: error 1")], RECORDED, 0.5)
    assert (finding.lead, finding.passed, finding.reason) == (None, False, "x: error 1")
    with pytest.raises(UserError, match=r"inverse-ogbench-256-threads_1: eager has no number \(x: error 1\)"):
        guard.findings([refused("eager", "x: error 1"), record("nfkern")], RECORDED, 0.5)


def guarded(device_name, day, lead=10.0, leave=0):
    """Records of all guarded rows, but for the last of them, on a machine and day."""
    changes = {"environment": replace(ENVIRONMENT, device_name=device_name), "date": f"2026-11-{day}T10:00:00+00:00"}
    found = [
        record(name, spread(1.0 if name == "eager" else 1 / lead), work=row.work.name, batch=row.batch, **changes)
        for row in rows(guard.GUARDED, registry.WORKS, registry.VARIANTS, 1)
        for name in (variant.name for variant in row.variants)
    ]
    return found[: len(found) - leave]


def test_the_newest_file_of_this_machine_that_has_all_rows_says_what_to_keep():
    records = frame(
        {
            "b.json": guarded("One", 20, lead=3.0),
            "a.json": guarded("One", 21, lead=4.0),
            "c.json": guarded("One", 22, leave=1),
            "d.json": guarded("Two", 23, lead=5.0),
        }
    )
    for name, lead, kept in (("One", 4.0, guard.KEPT), ("Two", 5.0, guard.KEPT), ("X", 5.0, guard.KEPT_ELSEWHERE)):
        leads, share = guard.recorded_leads(records, name)
        assert share == kept
        assert leads["inverse-ogbench-1-threads_1-nfkern"] == pytest.approx(lead)
    with pytest.raises(UserError, match="no file in .* has all rows of the guard"):
        guard.recorded_leads(records.filter(file="c.json"), "One")


def test_every_guarded_row_is_recorded_with_a_clear_lead():
    records = read(RESULTS)
    for name in records["device_name"].unique():
        leads, _ = guard.recorded_leads(records, name)
        assert min(lead for key, lead in leads.items() if not key.endswith("-eager")) > 2


def test_the_share_is_a_share():
    with pytest.raises(ValueError, match="kept: expected a number from 0 to 1, got 2"):
        guard.Guard(kept=2)


@pytest.mark.slow
def test_a_slower_stub_changes_the_verdict(monkeypatch, capsys):
    monkeypatch.setattr(
        guard, "GUARDED", (Benchmark("inverse", ("ogbench",), (1,), ("eager", "nfkern"), threads=("one",)),)
    )
    assert cli.main(["bench", "guard"]) == 0
    assert "ok     inverse-ogbench-1-threads_1-nfkern: " in capsys.readouterr().out
    native = registry.VARIANTS["nfkern"].builders["inverse"]

    def several(problem):
        built = native(problem)
        return replace(built, run=lambda *inputs: [built.run(*inputs) for _ in range(16)][-1])

    slow = replace(registry.VARIANTS["nfkern"], builders={"inverse": several})
    monkeypatch.setattr(guard, "VARIANTS", {**registry.VARIANTS, "nfkern": slow})
    assert cli.main(["bench", "guard"]) == 1
    out = capsys.readouterr().out
    assert "BEHIND inverse-ogbench-1-threads_1-nfkern: " in out
    assert "1 fell behind" in out
