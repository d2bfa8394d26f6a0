"""The study in the simulator summed up: success over seeds, time to a success, tables, verdicts."""

from dataclasses import replace

import pytest
from support.success_results import CUBE, MAZE, evaluation, results

from nfkern.bench.studies.success.report import REPORT, curves, of_environment, step_of, target
from nfkern.bench.studies.summary import Spread

pytestmark = pytest.mark.slow


def test_a_success_is_reached_at_the_first_evaluation_that_has_it():
    found = [evaluation("nf", 0, step, successes) for step, successes in ((500, (2, 0)), (250, (1, 0)), (750, (0, 0)))]
    assert [row.success for row in found] == [0.5, 0.25, 0.0]
    # The evaluations need not be in order, nor does success have to last.
    assert [step_of(found, wanted) for wanted in (0.2, 0.25, 0.3, 0.5, 0.51)] == [250, 250, 500, 500, None]
    failed = replace(found[1], successes=(), error="ValueError: bad")
    assert step_of([failed, found[0]], 0.2) == 500
    assert step_of([], 0.2) is None


def test_times_are_told_to_half_of_the_best_success_unless_a_target_is_set():
    found = results()
    # The flow: 8 and 7 of 8 episodes.
    assert target(found, MAZE) == pytest.approx(0.5 * (1 + 7 / 8) / 2)
    assert target(found, CUBE) is None
    found.settings = replace(found.settings, target=0.25)
    assert (target(found, MAZE), target(found, CUBE)) == (0.25, 0.25)
    assert REPORT.rows(found)[MAZE]["nf"].values["time"] == [500 / 40, 500 / 40]
    assert REPORT.rows(found)[CUBE]["nf"].values["time"] == []


def test_rows_are_over_seeds():
    found = REPORT.rows(results())[MAZE]
    row = found["nf"]
    assert row.spread("success") == Spread(pytest.approx(0.9375), pytest.approx(0.125 / 2**0.5))
    assert row.values["tasks"] == [1.0, pytest.approx(0.875)]
    assert row.curve == ((6.25, 0.0), (12.5, 0.25), (18.75, 1.0), (25.0, pytest.approx(0.9375)))
    assert row.values["time"] == [750 / 40, 750 / 40]
    assert (row.values["steps_per_second"], row.values["training"]) == ([40.0, 40.0], [25.0, 25.0])
    assert (row.values["act 1"], row.values["act 50"]) == ([pytest.approx(3e-4)], [pytest.approx(3e-4 * 50**0.5)])
    # One task always and one never: any value is within reach of another choice of tasks.
    assert found["gaussian"].values["low"][0] < 0.1 < 0.9 < found["gaussian"].values["high"][0]
    assert (found["ddpm_100"].spread("success"), found["ddpm_100"].error) == (None, "ValueError: <bad>")
    assert found["ddpm_100"].values["steps_per_second"] == found["ddim_10"].values["steps_per_second"] == [80.0, 80.0]


def test_tables_say_what_is_missing_and_how_many_seeds_reached_a_target():
    found = results()
    found.evaluations = [
        replace(row, successes=(0, 0)) if (row.policy, row.seed) == ("gaussian", 1) else row
        for row in found.evaluations
    ]
    found.settings = replace(found.settings, target=0.5)
    head, lines = of_environment(found, MAZE, REPORT.rows(found)[MAZE])
    shown = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    times = {name: line["training to 50 %"] for name, line in shown.items()}
    assert times == {"nf": "18.8 s", "gaussian": "2.50 s, 1 of 2 seeds", "ddim_10": "not reached", "ddpm_100": ""}
    assert (shown["ddpm_100"]["success"], shown["ddpm_100"]["act, 1"]) == ("failed: ValueError: <bad>", "50.0 ms")
    soonest = "50 % success is reached with every seed, soonest first, by nf (18.8 s)."
    assert f"{MAZE}: {soonest}" in REPORT.verdicts(found)
    found.settings = replace(found.settings, target=1.0)
    assert f"{CUBE}: 100 % success is reached with every seed by no policy." in REPORT.verdicts(found)
    head, lines = curves(REPORT.rows(found)[MAZE])
    assert head == ["policy", "250 steps", "500 steps", "750 steps", "1,000 steps"]
    assert lines[2] == ["ddim_10", "0 %", "0 %", "0 %", "12 %"]


def test_verdicts_say_who_is_ahead_and_who_is_soonest():
    assert REPORT.verdicts(results()) == [
        f"{MAZE}: more success than nf, beyond the seeds' spread: no other policy.",
        f"{MAZE}: 47 % success is reached with every seed, soonest first, by gaussian (2.50 s), nf (18.8 s).",
        f"{MAZE}: no policy both acts faster and succeeds more often than these: gaussian, nf.",
        f"{CUBE}: more success than nf, beyond the seeds' spread: no other policy.",
        f"{CUBE}: no policy has any success.",
    ]
    found = REPORT.rows(results())[MAZE]
    assert REPORT.ahead(found | {"nf": found["ddim_10"]}, "nf") == ["gaussian"]
