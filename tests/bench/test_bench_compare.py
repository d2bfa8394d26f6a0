"""Regressions are found, noise is not."""

import random
import statistics
from dataclasses import replace

import pytest
from bench_records import record, refused, spread

from nfkern.bench.compare import Bounds, at_speed_of, compare
from nfkern.bench.timing import quantiles


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


@pytest.mark.parametrize(("median", "threshold", "expected"), [(1.08e-3, 0.1, "same"), (1.08e-3, 0.05, "slower")])
def test_the_threshold_decides_about_clear_changes(median, threshold, expected):
    assert verdict(record(), record(quantiles=spread(median)), threshold) == expected


@pytest.mark.parametrize(("absolute_s", "expected"), [(1e-4, "slower"), (3e-4, "same")])
def test_a_change_has_to_be_above_the_absolute_bound_too(absolute_s, expected):
    assert verdict(record(), record(quantiles=spread(1.2e-3)), absolute_s=absolute_s) == expected


@pytest.mark.parametrize("bad", [{"relative": -0.1}, {"relative": float("nan")}, {"absolute_s": -1.0}])
def test_bounds_are_not_negative(bad):
    with pytest.raises(ValueError, match="expected a number >= 0"):
        Bounds(**bad)


def test_a_change_inside_a_wide_band_is_noise():
    assert verdict(record(quantiles=spread(1e-3, 0.4)), record(quantiles=spread(1.3e-3, 0.4))) == "same"


def test_jitter_alone_is_never_a_regression():
    generator = random.Random(0)
    for _ in range(50):
        runs = [[abs(generator.gauss(1e-3, 2e-4)) for _ in range(40)] for _ in range(2)]
        assert verdict(*(record(quantiles=quantiles(run)) for run in runs)) == "same"
        slowed = [1.8 * seconds for seconds in runs[1]]
        assert statistics.median(slowed) > 1.4e-3
        assert verdict(record(quantiles=quantiles(runs[0])), record(quantiles=quantiles(slowed))) == "slower"


@pytest.mark.parametrize(("factor", "expected"), [(1.0, "same"), (1.05, "same"), (1.15, "slower"), (0.85, "faster")])
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
    assert (eager.verdict, nfkern.verdict, jax.verdict) == ("same", "same", "slower")
    assert (eager.after_s, nfkern.after_s, jax.after_s) == pytest.approx((1e-3, 0.5e-3, 1e-3))
    assert factors == {"inverse-ogbench-256-threads_1": pytest.approx(1 / 1.6)}


def test_rows_without_the_variant_keep_their_times():
    no_number = replace(refused("eager"), batch=4)
    before = [record("eager"), record("nfkern"), record("nfkern", batch=1), no_number, record("nfkern", batch=4)]
    after = [record("eager", spread(2e-3)), *(record("nfkern", batch=batch) for batch in (256, 1, 4))]
    after.append(record("eager", spread(2e-3), batch=4))
    scaled, factors = at_speed_of("eager", before, after)
    assert factors.keys() == {"inverse-ogbench-256-threads_1"}
    assert [r.quantiles.median_s for r in scaled] == pytest.approx([1e-3, 0.5e-3, 1e-3, 1e-3, 2e-3])
