"""Regressions are found, noise is not."""

import math
import random
import statistics
from dataclasses import replace

import pytest
from support.bench_records import ENVIRONMENT, record, refused, spread

from nfkern.bench.core import records as storage
from nfkern.bench.core.timing import quantiles
from nfkern.bench.report.compare import Bounds, Compare, at_speed_of, compare
from nfkern.errors import UserError


def verdict(before, after, relative=0.1, absolute_s=0.0):
    (change,) = compare([before], [after], Bounds(relative, absolute_s))
    return change.verdict


def test_an_injected_regression_is_found():
    (change,) = compare([record()], [record(quantiles=spread(1.2e-3))], Bounds())
    assert change.verdict == "slower"
    assert change.regression
    assert (change.before_s, change.after_s) == (1e-3, 1.2e-3)


def test_an_improvement_is_no_regression():
    (change,) = compare([record()], [record(quantiles=spread(0.5e-3))], Bounds())
    assert change.verdict == "faster"
    assert not change.regression


@pytest.mark.parametrize(
    ("median", "threshold", "expected"),
    [(1.08e-3, 0.1, "within bounds"), (1.01e-3, 0.1, "within noise"), (1.08e-3, 0.05, "slower")],
)
def test_the_threshold_decides_about_clear_changes(median, threshold, expected):
    assert verdict(record(), record(quantiles=spread(median)), threshold) == expected


@pytest.mark.parametrize(("absolute_s", "expected"), [(1e-4, "slower"), (3e-4, "within bounds")])
def test_a_change_has_to_be_above_the_absolute_bound_too(absolute_s, expected):
    assert verdict(record(), record(quantiles=spread(1.2e-3)), absolute_s=absolute_s) == expected


@pytest.mark.parametrize("bad", [{"relative": -0.1}, {"relative": float("nan")}, {"absolute_s": -1.0}])
def test_bounds_are_not_negative(bad):
    with pytest.raises(ValueError, match="expected a number >= 0"):
        Bounds(**bad)


def test_a_change_inside_a_wide_band_is_noise():
    assert verdict(record(quantiles=spread(1e-3, 0.4)), record(quantiles=spread(1.3e-3, 0.4))) == "within noise"


def test_jitter_alone_is_never_a_regression():
    generator = random.Random(0)
    for _ in range(50):
        runs = [[abs(generator.gauss(1e-3, 2e-4)) for _ in range(40)] for _ in range(2)]
        assert verdict(*(record(quantiles=quantiles(run)) for run in runs)) == "within noise"
        slowed = [1.8 * seconds for seconds in runs[1]]
        assert statistics.median(slowed) > 1.4e-3
        assert verdict(record(quantiles=quantiles(runs[0])), record(quantiles=quantiles(slowed))) == "slower"


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, "within noise"), (1.05, "within bounds"), (1.15, "slower"), (0.85, "faster")],
)
def test_many_jittering_calls_tell_a_small_change(factor, expected):
    """Single calls spread over a third, as on a shared machine; the median of a thousand does not."""
    generator = random.Random(0)
    runs = [[generator.uniform(1e-3, 1.35e-3) for _ in range(1000)] for _ in range(2)]
    slowed = [factor * seconds for seconds in runs[1]]
    assert verdict(*(record(quantiles=quantiles(run)) for run in (runs[0], slowed))) == expected


def test_a_number_that_is_now_refused_is_a_regression():
    (change,) = compare([record()], [refused(reason="x: error 1")], Bounds())
    assert (change.verdict, change.reason, change.regression) == ("broken", "x: error 1", True)


def test_rows_of_one_file_only_are_told_apart():
    changes = compare([record("gone"), refused("never")], [record("fresh"), refused("never")], Bounds())
    assert {(change.key.rsplit("-", 1)[1], change.verdict) for change in changes} == {
        ("gone", "missing"),
        ("fresh", "new"),
    }
    assert not any(change.regression for change in changes)


def test_threads_are_different_rows():
    changes = compare([record(threads=1)], [replace(record(threads=2), quantiles=spread(9e-3))], Bounds())
    assert {change.verdict for change in changes} == {"missing", "new"}


def test_a_slower_machine_cancels_and_a_slower_kernel_does_not():
    before = [record("eager"), record("nfkern", spread(0.5e-3)), record("jax", spread(0.8e-3))]
    after = [record("eager", spread(1.6e-3)), record("nfkern", spread(0.8e-3)), record("jax", spread(1.6e-3))]
    assert [change.verdict for change in compare(before, after, Bounds())] == ["slower"] * 3
    scaled, factors = at_speed_of("eager", before, after)
    eager, nfkern, jax = compare(before, scaled, Bounds())
    assert (eager.verdict, nfkern.verdict, jax.verdict) == ("within noise", "within noise", "slower")
    assert (eager.after_s, nfkern.after_s, jax.after_s) == pytest.approx((1e-3, 0.5e-3, 1e-3))
    assert factors == {"inverse-ogbench-256-threads_1": pytest.approx(1 / 1.6)}


def test_the_noise_of_what_times_are_relative_to_counts():
    """Its median lies at one end of where it moves; times that follow its mean have not changed."""
    quiet, restless = spread(1e-3), replace(spread(1e-3, 0.4), low_median_s=0.98e-3, high_median_s=1.6e-3)
    before = [record("eager", spread(1.5e-3)), record("nfkern", quiet)]
    for earlier, later in (
        (before, [record("eager", restless), before[1]]),
        ([record("eager", restless), before[1]], before),
    ):
        assert compare(earlier, at_speed_of("eager", earlier, later)[0], Bounds())[1].verdict == "within noise"
    slower = [before[0], record("nfkern", spread(1.3e-3))]
    assert compare(before, at_speed_of("eager", before, slower)[0], Bounds())[1].verdict == "slower"


def test_noise_adds_up_in_squares_of_logarithms():
    own, reference = spread(1.0, 0.1), replace(spread(2.0, 0.0), low_median_s=1.0, high_median_s=2.0)
    steady = spread(4.0, 0.0)
    low, high = own.at_speed(steady, reference).noise_s
    assert (low, high) == pytest.approx((2 * 0.9, 2 * math.exp(math.hypot(math.log(1.1), math.log(2)))))
    low, high = own.at_speed(reference, steady).noise_s
    assert (low, high) == pytest.approx((0.5 * math.exp(-math.hypot(math.log(0.9), math.log(2))), 0.5 * 1.1))


@pytest.mark.parametrize(("calls", "expected"), [(1, "within noise"), (2, "within noise"), (3, "slower")])
def test_one_or_two_calls_are_no_evidence(tmp_path, capsys, calls, expected):
    once, twice_as_long = (record(quantiles=quantiles([seconds] * calls)) for seconds in (1.0, 2.0))
    assert verdict(once, twice_as_long) == expected
    assert verdict(record(quantiles=quantiles([1.0] * 100)), twice_as_long) == expected
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    storage.write(before, [record(quantiles=quantiles([1.0] * 100))])
    storage.write(after, [twice_as_long])
    for relative_to in ("", "nfkern"):
        Compare(before, after, relative_to=relative_to).run()
        note = f"note: 1 times in {after} are of fewer than 3 calls: none is called slower or faster"
        assert (note in capsys.readouterr().out) == (calls < 3)


def test_rows_without_the_variant_keep_their_times():
    no_number = replace(refused("eager"), batch=4)
    before = [record("eager"), record("nfkern"), record("nfkern", batch=1), no_number, record("nfkern", batch=4)]
    after = [record("eager", spread(2e-3)), *(record("nfkern", batch=batch) for batch in (256, 1, 4))]
    after.append(record("eager", spread(2e-3), batch=4))
    scaled, factors = at_speed_of("eager", before, after)
    assert factors.keys() == {"inverse-ogbench-256-threads_1"}
    assert [r.quantiles.median_s for r in scaled] == pytest.approx([1e-3, 0.5e-3, 1e-3, 1e-3, 2e-3])


def test_compare_fails_only_on_regressions(tmp_path, capsys):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    storage.write(before, [record("eager"), record("nfkern")])
    storage.write(after, [record("eager", spread(1.02e-3)), record("nfkern", spread(1.5e-3))])
    assert Compare(before, before).run() == 0
    assert Compare(before, after).run() == 1
    assert "slower        inverse-ogbench-256-threads_1-nfkern: 1.00 ms -> 1.50 ms (1.50x)" in capsys.readouterr().out
    for bound in ("60%", " 60 %", "60.0%"):
        assert Compare(before, after, fail_if_slower=bound).run() == 0
    assert Compare(before, after, fail_if_slower="40%").run() == 1
    assert Compare(before, after, ignore_below="600us").run() == 0
    assert Compare(before, after, ignore_below="0.4ms").run() == 1


def test_compare_says_when_there_is_nothing_to_compare_or_devices_differ(tmp_path, capsys):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    storage.write(before, [record("eager")])
    storage.write(after, [record("nfkern")])
    with pytest.raises(UserError, match="no time in common"):
        Compare(before, after).run()
    for bad in ("nan", "-1%", "10us", "ten", "", "10", "9" * 400 + "%"):
        with pytest.raises(UserError, match=f"--fail-if-slower: expected a number >= 0 such as 10%, got '{bad}'"):
            Compare(before, after, fail_if_slower=bad).run()
    with pytest.raises(UserError, match="--ignore-below: .* 10us .*, got '5'"):
        Compare(before, after, ignore_below="5").run()
    storage.write(after, [replace(record("eager"), environment=replace(ENVIRONMENT, device_name="Other"))])
    assert Compare(before, after).run() == 0
    assert "different devices (Example CPU <1>, Other)" in capsys.readouterr().out


def test_compare_relative_to_a_variant(tmp_path, capsys):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    storage.write(before, [record("eager"), record("nfkern"), record("jax", batch=1)])
    only_later = record("nfkern", spread(3e-3), batch=4)
    twice = [record(name, spread(2e-3)) for name in ("eager", "nfkern")]
    storage.write(after, [*twice, record("jax", batch=1), only_later])
    assert Compare(before, after).run() == 1
    assert Compare(before, after, relative_to="eager").run() == 0
    out = capsys.readouterr().out
    assert "within noise  inverse-ogbench-256-threads_1-nfkern: 1.00 ms -> 1.00 ms (1.00x)" in out
    assert "note: inverse-ogbench-1-threads_1 is compared by its own times" in out
    assert "inverse-ogbench-4-threads_1 is compared" not in out
    assert "new           inverse-ogbench-4-threads_1-nfkern: 3.00 ms" in out
    with pytest.raises(UserError, match="--relative-to: .* got 'zuko'; both have eager, jax, nfkern"):
        Compare(before, after, relative_to="zuko").run()


def test_a_rivals_regression_can_be_left_out(tmp_path, capsys):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    storage.write(before, [record("eager"), record("nfkern_frozen")])
    storage.write(after, [record("eager", spread(2e-3)), record("nfkern_frozen")])
    assert Compare(before, after).run() == 1
    assert "2 compared, 1 regression;" in capsys.readouterr().out
    assert Compare(before, after, variants=("nfkern",)).run() == 0
    assert Compare(before, after, variants=("nfkern",), relative_to="eager").run() == 0
    with pytest.raises(UserError, match="no time in common.* have these variants"):
        Compare(before, after, variants=("zuko",)).run()


def test_compare_says_which_file_does_not_know_how_far_medians_move(tmp_path, capsys):
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    quartered = replace(spread(1e-3, 0.4), low_median_s=0.99e-3, high_median_s=1.01e-3)
    storage.write(old, [record(quantiles=replace(quartered, low_median_s=None, high_median_s=None))])
    storage.write(new, [record(quantiles=quartered.scaled(1.3))])
    assert Compare(old, new).run() == 0
    out = capsys.readouterr().out
    assert f"note: {old} does not have how far medians move" in out
    assert f"note: {new}" not in out
    storage.write(old, [record(quantiles=quartered)])
    assert Compare(old, new).run() == 1
    assert "note:" not in capsys.readouterr().out
