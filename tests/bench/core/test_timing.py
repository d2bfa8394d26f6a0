"""Turns, warm-up, budgets and quantiles, on a clock that only the variants move."""

from functools import partial

import pytest
import torch

from nfkern.bench.core import timing
from nfkern.bench.core.timing import Budget, interleaved, num_threads, quantiles, stopwatch_for
from nfkern.bench.core.units import duration, size


class Bench:
    """Variants that take a stated time on a clock of their own, and the order in which they were called."""

    def __init__(self, **seconds):
        self.now = 0.0
        self.calls = []
        self.arguments = []
        self.variants = {name: self._variant(name, duration) for name, duration in seconds.items()}
        self.stopwatch = stopwatch_for(torch.device("cpu"), clock=lambda: self.now)

    def _variant(self, name, duration):
        def run(argument):
            self.calls.append(name)
            self.arguments.append(argument)
            self.now += duration

        return run

    def time(self, budget, inputs=((0,),), **tell):
        calls = {name: [partial(run, *each) for each in inputs] for name, run in self.variants.items()}
        return interleaved(calls, budget, self.stopwatch, **tell)


def test_variants_take_turns_and_wait_for_those_behind():
    bench = Bench(a=1.0, b=2.0, c=1.0)
    times = bench.time(Budget(warmup_s=0.0, measure_s=3.0, min_repeats=2, turn_s=0.05))
    warm_up, turns = bench.calls[:3], bench.calls[3:]
    assert warm_up == ["a", "b", "c"]
    assert turns == ["a", "b", "c", "a", "c", "b", "a", "c"]
    assert [times[name].median_s for name in "abc"] == [1.0, 2.0, 1.0]


def test_a_burst_starts_with_an_untimed_call():
    """It has three timed ones at least, unless a call takes so long that nothing else can matter."""
    bench = Bench(fast=0.25, slow=10.0, slowest=10.5)
    times = bench.time(Budget(warmup_s=0.0, measure_s=0.0, min_repeats=1, turn_s=1.0))
    assert bench.calls == ["fast", "slow", "slowest"] + ["fast"] * 5 + ["slow"] * 4 + ["slowest"]
    assert [times[name].repeats for name in ("fast", "slow", "slowest")] == [4, 3, 1]


def test_what_happens_between_calls_is_not_timed(monkeypatch):
    """Of a turn's calls each timed one comes after it."""
    monkeypatch.setattr(timing, "BETWEEN_REPEATS", 6)
    bench = Bench(a=0.001, b=0.002)

    def pause():
        bench.calls.append("pause")
        bench.now += 10.0

    times = bench.time(Budget(warmup_s=0.0, measure_s=5.0, min_repeats=100_000, turn_s=1.0), between=pause)
    first, second = ([name, *["pause", name] * 3] for name in "ab")
    assert bench.calls == ["a", "b", *first, *second, *first, *second]
    assert {name: times[name].repeats for name in "ab"} == {"a": 6, "b": 6}
    assert {name: round(times[name].median_s, 9) for name in "ab"} == {"a": 0.001, "b": 0.002}


def test_warm_up_lasts_its_time():
    bench = Bench(a=0.25)
    bench.time(Budget(warmup_s=1.0, measure_s=0.0, min_repeats=1, turn_s=0.0))
    assert len(bench.calls) == 4 + 1


def test_the_least_repeats_outlast_the_time_until_the_limit():
    budget = Budget(warmup_s=0.0, measure_s=1.0, min_repeats=5, limit_s=100.0, turn_s=0.0)
    assert Bench(a=1.0).time(budget)["a"].repeats == 5
    assert Bench(a=60.0).time(budget)["a"].repeats == 2


@pytest.mark.parametrize(
    ("budget", "shares"),
    [
        (Budget(warmup_s=0.0, measure_s=4.0, min_repeats=1, turn_s=0.0), [0.25, 0.5, 0.75, 1.0]),
        (Budget(warmup_s=0.0, measure_s=1.0, min_repeats=5, turn_s=0.0, limit_s=100.0), [0.2, 0.4, 0.6, 0.8, 1.0]),
        (Budget(warmup_s=0.0, measure_s=0.0, min_repeats=5, turn_s=0.0, limit_s=2.0), [0.5, 1.0]),
    ],
)
def test_the_slowest_to_have_enough_says_how_much_is_done(budget, shares):
    told = []
    Bench(a=1.0, b=2.0).time(budget, tell=told.append)
    assert told == shares


def test_only_every_twentieth_is_told():
    told = []
    budget = Budget(warmup_s=0.0, measure_s=1000.0, min_repeats=1, limit_s=2000.0, turn_s=0.0)
    Bench(a=1.0).time(budget, tell=told.append)
    assert told == [count / 20 for count in range(1, 21)]


def test_inputs_rotate():
    bench = Bench(a=1.0)
    bench.time(Budget(warmup_s=0.0, measure_s=4.0, min_repeats=1, turn_s=0.0), inputs=((0,), (1,), (2,)))
    assert bench.arguments == [0, 1, 2, 0, 1]


def test_thread_count_is_restored():
    before = torch.get_num_threads()
    with num_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), num_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_quantiles():
    q = quantiles([float(i) for i in range(101)], device=[3.0, 1.0, 2.0])
    assert (q.p10_s, q.median_s, q.p90_s, q.p99_s, q.repeats) == (10.0, 50.0, 90.0, 99.0, 101)
    assert q.device_median_s == 2.0
    assert quantiles([2.0]).p99_s == 2.0
    with pytest.raises(ValueError, match="wall: expected at least one time"):
        quantiles([])


def test_noise_is_what_the_median_moves_not_what_calls_do():
    jitter = [float(i) for i in range(50)] * 40
    assert quantiles(jitter).noise_s == (24.5, 24.5)
    assert quantiles(jitter).p90_s > 40
    drift = [1.0] * 1000 + [2.0] * 1000
    assert quantiles(drift).noise_s == (1.0, 2.0)
    few = [float(i) for i in range(11)]
    assert quantiles(few).noise_s == (quantiles(few).p10_s, quantiles(few).p90_s) == (1.0, 9.0)


def test_a_call_held_up_in_the_warm_up_does_not_shorten_the_bursts():
    bench = Bench(fast=0.1)
    steady = bench.variants["fast"]

    def held_up_once(argument):
        steady(argument)
        if len(bench.calls) == 11:
            bench.now += 5.0

    bench.variants["fast"] = held_up_once
    bench.time(Budget(warmup_s=1.05, measure_s=0.0, min_repeats=1, turn_s=1.0))
    # An untimed call and a burst of ten, not one call a turn.
    assert len(bench.calls) == 11 + 1 + 10


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.51e-5, "45.1 us"), (1.2e-3, "1.20 ms"), (2.5, "2.50 s"), (0.123, "123 ms"), (3e-7, "0.30 us"), (0, "0.00 us")],
)
def test_durations_have_three_digits(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(512, "512 B"), (1200, "1.20 kB"), (45_600_000, "45.6 MB"), (2.5e9, "2.50 GB")]
)
def test_sizes_have_three_digits(number, text):
    assert size(number) == text
