"""Regressions are found, noise is not."""

import math
import random
from dataclasses import replace

import pytest
from support.bench_records import ENVIRONMENT, record, refused, spread

from nfkern.bench.core import records as storage
from nfkern.bench.core.timing import quantiles
from nfkern.bench.report.compare import Compare, at_speed_of, compare
from nfkern.errors import UserError


def verdict(before, after, relative=0.1, absolute_s=0.0):
    (change,) = compare([record(quantiles=before)], [record(quantiles=after)], relative, absolute_s)
    assert change.regression == (change.verdict == "slower")
    return change.verdict


@pytest.mark.parametrize(
    ("median", "bounds", "expected"),
    [
        (1.2e-3, {}, "slower"),
        (0.5e-3, {}, "faster"),
        (1.08e-3, {}, "within bounds"),
        (1.08e-3, {"relative": 0.05}, "slower"),
        (1.01e-3, {"relative": 0.0}, "within noise"),
        (1.2e-3, {"absolute_s": 1e-4}, "slower"),
        (1.2e-3, {"absolute_s": 3e-4}, "within bounds"),
    ],
)
def test_a_change_is_above_the_noise_and_both_bounds(median, bounds, expected):
    assert verdict(spread(1e-3), spread(median), **bounds) == expected


def test_a_change_inside_a_wide_band_is_noise():
    assert verdict(spread(1e-3, 0.4), spread(1.3e-3, 0.4)) == "within noise"
    # Each median has to lie outside the other's band, not only one.
    for bands in ((0.4, 0.01), (0.01, 0.4)):
        assert verdict(*map(spread, (1e-3, 1.3e-3), bands)) == "within noise"


def test_jitter_alone_is_never_a_regression():
    generator = random.Random(0)
    for _ in range(50):
        one, other = ([abs(generator.gauss(1e-3, 2e-4)) for _ in range(40)] for _ in range(2))
        assert verdict(quantiles(one), quantiles(other)) == "within noise"
        assert verdict(quantiles(one), quantiles([1.8 * seconds for seconds in other])) == "slower"


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.0, "within noise"), (1.05, "within bounds"), (1.15, "slower"), (0.85, "faster")]
)
def test_many_jittering_calls_tell_a_small_change(factor, expected):
    """Single calls spread over a third, as on a shared machine; the median of a thousand does not."""
    generator = random.Random(0)
    one, other = ([generator.uniform(1e-3, 1.35e-3) for _ in range(1000)] for _ in range(2))
    assert verdict(quantiles(one), quantiles([factor * seconds for seconds in other])) == expected


@pytest.mark.parametrize(("calls", "expected"), [(1, "within noise"), (2, "within noise"), (3, "slower")])
def test_one_or_two_calls_are_no_evidence(calls, expected):
    twice_as_long = quantiles([2.0] * calls)
    for before in (quantiles([1.0] * calls), quantiles([1.0] * 100)):
        assert verdict(before, twice_as_long) == expected


def test_what_only_one_file_has_is_missing_new_or_broken():
    skipped = replace(record("absent"), quantiles=None, skipped="needs the module x")
    before = [record("gone"), record("wrong"), record("absent"), refused("never"), record("eager", threads=1)]
    after = [record("fresh"), refused("wrong", "x: error 1"), skipped, refused("never"), record("eager", threads=2)]
    shown = [(change.key.rsplit("-")[-2:], change.verdict, change.reason) for change in compare(before, after)]
    assert shown == [
        (["threads_1", "gone"], "missing", None),
        (["threads_1", "wrong"], "broken", "x: error 1"),
        (["threads_1", "absent"], "missing", "needs the module x"),
        (["threads_1", "eager"], "missing", None),
        (["threads_1", "fresh"], "new", None),
        (["threads_2", "eager"], "new", None),
    ]
    assert [change.regression for change in compare(before, after)] == [False, True, False, False, False, False]


def test_a_slower_machine_cancels_and_a_slower_kernel_does_not():
    before = [record("eager"), record("nfkern", spread(0.5e-3)), record("jax", spread(0.8e-3))]
    after = [record("eager", spread(1.6e-3)), record("nfkern", spread(0.8e-3)), record("jax", spread(1.6e-3))]
    assert [change.verdict for change in compare(before, after)] == ["slower"] * 3
    scaled, factors = at_speed_of("eager", before, after)
    eager, nfkern, jax = compare(before, scaled)
    assert (eager.verdict, nfkern.verdict, jax.verdict) == ("within noise", "within noise", "slower")
    assert (eager.after_s, nfkern.after_s, jax.after_s) == pytest.approx((1e-3, 0.5e-3, 1e-3))
    assert factors == {"inverse-ogbench-256-threads_1": pytest.approx(1 / 1.6)}


def test_the_noise_of_what_times_are_relative_to_counts():
    """Its median lies at one end of where it moves; times that follow its mean have not changed."""
    quiet, restless = spread(1e-3), replace(spread(1e-3, 0.4), low_median_s=0.98e-3, high_median_s=1.6e-3)
    before = [record("eager", spread(1.5e-3)), record("nfkern", quiet)]
    moved = [record("eager", restless), before[1]]
    for earlier, later in ((before, moved), (moved, before)):
        assert compare(earlier, at_speed_of("eager", earlier, later)[0])[1].verdict == "within noise"
    slower = [before[0], record("nfkern", spread(1.3e-3))]
    assert compare(before, at_speed_of("eager", before, slower)[0])[1].verdict == "slower"


def test_noise_adds_up_in_squares_of_logarithms():
    own, reference = spread(1.0, 0.1), replace(spread(2.0, 0.0), low_median_s=1.0, high_median_s=2.0)
    steady = spread(4.0, 0.0)
    low, high = own.at_speed(steady, reference).noise_s
    assert (low, high) == pytest.approx((2 * 0.9, 2 * math.exp(math.hypot(math.log(1.1), math.log(2)))))
    low, high = own.at_speed(reference, steady).noise_s
    assert (low, high) == pytest.approx((0.5 * math.exp(-math.hypot(math.log(0.9), math.log(2))), 0.5 * 1.1))


@pytest.fixture
def files(tmp_path, capsys):
    """Compares two lists of records by the command; its exit code and what it prints."""

    def compared(before, after, **options):
        paths = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
        for path, records in zip(paths, (before, after), strict=True):
            storage.write(path, records)
        return Compare(*paths, **options).run(), capsys.readouterr().out

    return compared


def test_compare_fails_only_on_regressions(files):
    before = [record("eager"), record("nfkern")]
    after = [record("eager", spread(1.02e-3)), record("nfkern", spread(1.5e-3))]
    assert files(before, before)[0] == 0
    code, out = files(before, after)
    assert code == 1
    assert "slower        inverse-ogbench-256-threads_1-nfkern: 1.00 ms -> 1.50 ms (1.50x)" in out
    assert "within noise  inverse-ogbench-256-threads_1-eager: 1.00 ms -> 1.02 ms (1.02x)" in out
    assert "2 compared, 1 regression; 0 missing, 0 new" in out
    for bound in ("60%", " 60 %", "60.0%"):
        assert files(before, after, fail_if_slower=bound)[0] == 0
    assert files(before, after, fail_if_slower="40%")[0] == 1
    assert files(before, after, ignore_below="600us")[0] == 0
    assert files(before, after, ignore_below="0.4ms")[0] == 1
    # What is missing fails too, unless that is wanted; what does another job is called so.
    code, out = files([*before, record("zuko"), record("no_longer_known")], before)
    assert code == 1
    assert "missing       inverse-ogbench-256-threads_1-zuko (same size, not the same function): 1.00 ms" in out
    assert files([*before, record("zuko")], before, allow_missing=True)[0] == 0


def test_compare_says_what_it_cannot_compare(files):
    with pytest.raises(UserError, match="no time in common"):
        files([record("eager")], [record("nfkern")])
    with pytest.raises(UserError, match="no time in common.* have these variants"):
        files([record()], [record()], variants=("zuko",))
    for bad in ("nan", "-1%", "10us", "ten", "", "10", "9" * 400 + "%"):
        with pytest.raises(UserError, match=f"--fail-if-slower: expected a number >= 0 such as 10%, got '{bad}'"):
            files([record()], [record()], fail_if_slower=bad)
    with pytest.raises(UserError, match="--ignore-below: .* 10us .*, got '5'"):
        files([record()], [record()], ignore_below="5")


def test_compare_notes_devices_few_calls_and_old_files(files):
    elsewhere = record(environment=replace(ENVIRONMENT, device_name="Other"))
    assert "different devices (Example CPU <1>, Other)" in files([record()], [elsewhere])[1]
    for options in ({}, {"relative_to": "nfkern"}):
        _, out = files([record(quantiles=quantiles([1.0] * 100))], [record(quantiles=quantiles([2.0] * 2))], **options)
        assert "after.jsonl are of fewer than 3 calls: none is called slower or faster" in out
    of_medians = replace(spread(1e-3, 0.4), low_median_s=0.99e-3, high_median_s=1.01e-3)
    of_calls = replace(of_medians, low_median_s=None, high_median_s=None)
    code, out = files([record(quantiles=of_calls)], [record(quantiles=of_medians.scaled(1.3))])
    assert code == 0
    assert "before.jsonl does not have how far medians move" in out
    assert "after.jsonl does not" not in out
    code, out = files([record(quantiles=of_medians)], [record(quantiles=of_medians.scaled(1.3))])
    assert code == 1
    assert "note:" not in out


def test_compare_relative_to_a_variant(files):
    twice = [record(name, spread(2e-3)) for name in ("eager", "nfkern")]
    before = [record("eager"), record("nfkern"), record("jax", batch=1)]
    after = [*twice, record("jax", batch=1), record("nfkern", spread(3e-3), batch=4)]
    assert files(before, after)[0] == 1
    code, out = files(before, after, relative_to="eager")
    assert code == 0
    assert "within noise  inverse-ogbench-256-threads_1-nfkern: 1.00 ms -> 1.00 ms (1.00x)" in out
    assert "note: inverse-ogbench-1-threads_1 is compared by its own times" in out
    assert "inverse-ogbench-4-threads_1 is compared" not in out
    assert "new           inverse-ogbench-4-threads_1-nfkern: 3.00 ms" in out
    with pytest.raises(UserError, match="--relative-to: .* got 'zuko'; both have eager, jax, nfkern"):
        files(before, after, relative_to="zuko")


def test_a_rivals_regression_can_be_left_out(files):
    before = [record("eager"), record("nfkern_frozen")]
    after = [record("eager", spread(2e-3)), record("nfkern_frozen")]
    assert files(before, after)[0] == 1
    for options in ({}, {"relative_to": "eager"}):
        assert files(before, after, variants=("nfkern",), **options)[0] == 0
