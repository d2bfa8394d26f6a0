"""The study in the simulator summed up: success over seeds, time to a success, tables, verdicts."""

from dataclasses import replace

import pytest
from support.success_results import CUBE, MAZE, evaluation, results

from nfkern.bench.studies.success.report import REPORT, curves, of_environment, rows, step_of, target
from nfkern.bench.studies.summary import Spread

pytestmark = pytest.mark.slow


def lines_of(found, env=MAZE):
    head, lines = of_environment(found, env, rows(found)[env])
    assert all(len(line) == len(head) for line in lines)
    return head, {line[0]: line[1:] for line in lines}


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
    assert rows(found)[MAZE]["nf"].values["time"] == [500 / 40, 500 / 40]
    assert rows(found)[CUBE]["nf"].values["time"] == []


def test_rows_are_over_seeds():
    found = rows(results())[MAZE]
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


def test_tables_have_every_number_and_say_what_is_missing():
    found = results()
    head, lines = lines_of(found)
    assert head[3:5] == ["goals 1 to 2", "training to 47 %"]
    assert lines["nf"][:1] + lines["nf"][2:] == [
        *("94 %", "100, 88", "18.8 s", "40", "25.0 s", "300 us", "2.12 ms", "500,000")
    ]
    # 2 of 4 episodes at 500 steps reach 47 %.
    assert lines["gaussian"][3] == "2.50 s"
    assert lines["ddim_10"][3] == "not reached"
    assert lines["ddpm_100"] == [
        *("failed: ValueError: <bad>", "", "", "", "80", "12.5 s", "50.0 ms", "354 ms", "500,000")
    ]
    head, shown = curves(rows(found)[MAZE])
    assert head == ["policy", "250 steps", "500 steps", "750 steps", "1,000 steps"]
    assert shown[1] == ["gaussian", "0 %", "50 %", "50 %", "50 %"]
    assert [line[0] for line in shown] == ["nf", "gaussian", "ddim_10"]
    head, lines = lines_of(found, CUBE)
    assert (head[4], lines["nf"][3]) == ("training to any success", "")
    assert f"{MAZE} with 100,000 transitions" in REPORT.described(found)


def test_a_target_that_some_seeds_reached_says_how_many():
    found = results()
    found.evaluations = [
        replace(row, successes=(0, 0)) if (row.policy, row.seed) == ("gaussian", 1) else row
        for row in found.evaluations
    ]
    found.settings = replace(found.settings, target=0.5)
    assert lines_of(found)[1]["gaussian"][3] == "2.50 s, 1 of 2 seeds"
    sentence = f"{MAZE}: 50 % success is reached with every seed, soonest first, by nf (18.8 s)."
    assert sentence in REPORT.verdicts(found)
    found.settings = replace(found.settings, target=1.0)
    assert f"{MAZE}: 100 % success is reached with every seed, soonest first, by nf (18.8 s)." in REPORT.verdicts(found)
    assert f"{CUBE}: 100 % success is reached with every seed by no policy." in REPORT.verdicts(found)


def test_verdicts_say_who_is_ahead_and_who_is_soonest():
    assert REPORT.verdicts(results()) == [
        f"{MAZE}: more success than nf, beyond the seeds' spread: no other policy.",
        f"{MAZE}: 47 % success is reached with every seed, soonest first, by gaussian (2.50 s), nf (18.8 s).",
        f"{MAZE}: no policy both acts faster and succeeds more often than these: gaussian, nf.",
        f"{CUBE}: more success than nf, beyond the seeds' spread: no other policy.",
        f"{CUBE}: no policy has any success.",
    ]
    found = rows(results())[MAZE]
    assert REPORT.ahead(found | {"nf": found["ddim_10"]}, "nf") == ["gaussian"]
