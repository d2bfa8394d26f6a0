"""Interleaved timing: variants take turns, so that a machine's drift touches them all alike."""

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

Stopwatch = Callable[[Callable[[], Any]], tuple[float, float | None]]
"""Runs a function; gives its wall time and, where there is one, its device time, in seconds."""


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Args:
        warmup_s: untimed running of each variant before the first turn, seconds.
        measure_s: timed running of each variant, seconds; it ends later if `min_repeats` has not been reached.
        min_repeats: calls of each variant.
        limit_s: timed running of a variant after which `min_repeats` no longer matters, seconds.
        turn_s: about how long a variant runs before the next one's turn, seconds.
    """

    warmup_s: float = 0.3
    measure_s: float = 1.0
    min_repeats: int = 20
    limit_s: float = 10.0
    turn_s: float = 0.02


QUICK = Budget()
FULL = Budget(warmup_s=1.0, measure_s=5.0, min_repeats=50, limit_s=30.0)
CONTROL = Budget(warmup_s=1.0, measure_s=0.0, min_repeats=100_000, limit_s=30.0)
RUNS = Budget(warmup_s=0.0, measure_s=0.0, min_repeats=5, limit_s=300.0)
SMOKE = Budget(warmup_s=0.0, measure_s=0.0, min_repeats=2)

_PARTS = 20

BETWEEN_REPEATS = 400
"""Calls of each variant where something happens between them."""

FEWEST = 3
"""Calls below which nothing is known of how far their median moves."""


@dataclass(frozen=True)
class Quantiles:
    """Wall seconds per call.

    Attributes:
        device_median_s: the device's own time, where there is one.
        p999_s: the 99.9th percentile, of at least 10 000 calls.
        low_median_s, high_median_s: the medians of up to twenty parts of the measurement lie between them, but for the
            lowest and the highest tenth.
    """

    median_s: float
    p10_s: float
    p90_s: float
    p99_s: float
    repeats: int
    device_median_s: float | None = None
    p999_s: float | None = None
    low_median_s: float | None = None
    high_median_s: float | None = None

    @property
    def noise_s(self) -> tuple[float, float]:
        """The band in which the median moves within a measurement; without one, that of single calls, which move more.

        Nothing is known of one call or two: the band is endless.
        """
        if self.repeats < FEWEST:
            return 0.0, math.inf
        if self.low_median_s is None or self.high_median_s is None:
            return self.p10_s, self.p90_s
        return self.low_median_s, self.high_median_s

    @property
    def has_median_band(self) -> bool:
        """Whether `noise_s` is of medians; otherwise it is of single calls."""
        return self.low_median_s is not None and self.high_median_s is not None

    def above(self, other: "Quantiles", relative: float = 0.0, absolute_s: float = 0.0) -> bool:
        """Whether this time is longer than another, by more than the noise and the bounds.

        Each median lies outside the other's noise; they differ by more than the share `relative` of the other, and by
        more than `absolute_s` seconds.
        """
        outside = self.median_s > other.noise_s[1] and other.median_s < self.noise_s[0]
        more = self.median_s - other.median_s
        return outside and more > relative * other.median_s and more > absolute_s

    def scaled(self, factor: float) -> "Quantiles":
        """All times, multiplied."""
        times = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "repeats"}
        return replace(self, **{name: time * factor for name, time in times.items() if time is not None})

    def at_speed(self, earlier: "Quantiles", later: "Quantiles") -> "Quantiles":
        """All times, multiplied by what makes `later` as fast as `earlier`.

        The noise of both is added to that of the median as that of independent measurements, in squares of logarithms.
        """
        scaled = self.scaled(earlier.median_s / later.median_s)
        # A reference that reads low later makes everything look slower, as does one that reads high earlier.
        up = math.hypot(self._moves(1), earlier._moves(1), later._moves(0))
        down = math.hypot(self._moves(0), earlier._moves(0), later._moves(1))
        low, high = scaled.median_s * math.exp(-down), scaled.median_s * math.exp(up)
        return replace(scaled, low_median_s=low, high_median_s=high)

    def _moves(self, side: int) -> float:
        """How far the median lies from the lower (0) or upper (1) end of its noise, the logarithm of their ratio."""
        end = self.noise_s[side]
        return abs(math.log(end / self.median_s)) if 0 < end < math.inf else math.inf


@dataclass
class _Samples:
    wall: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    spent: float = 0.0  # the sum of wall, which grows long


def quantiles(wall: Sequence[float], device: Sequence[float] = ()) -> Quantiles:
    """Quantiles of at least one time, in the order in which they were taken; between two they are interpolated."""
    if not wall:
        raise ValueError("wall: expected at least one time, got none")
    # statistics.quantiles wants two points.
    cuts = statistics.quantiles(wall, n=100, method="inclusive") if len(wall) > 1 else [wall[0]] * 99
    p999 = statistics.quantiles(wall, n=1000, method="inclusive")[998] if len(wall) >= 10_000 else None
    device_median = statistics.median(device) if device else None
    low, high = _noise(wall)
    return Quantiles(cuts[49], cuts[9], cuts[89], cuts[98], len(wall), device_median, p999, low, high)


def _noise(wall: Sequence[float]) -> tuple[float, float]:
    count = min(_PARTS, len(wall))
    ends = [len(wall) * number // count for number in range(count + 1)]
    medians = [statistics.median(wall[start:end]) for start, end in itertools.pairwise(ends)]
    cuts = statistics.quantiles(medians, n=10, method="inclusive") if count > 1 else medians
    return cuts[0], cuts[-1]


def interleaved(
    variants: Mapping[str, Sequence[Callable[[], Any]]],
    budget: Budget,
    stopwatch: Stopwatch,
    tell: Callable[[float], None] = lambda share: None,
    between: Callable[[], None] | None = None,
) -> dict[str, Quantiles]:
    """Time the variants in turns.

    A turn is a burst of calls of about `budget.turn_s`, but at least three unless they take much longer. A burst of
    several calls starts with an untimed one, because the variants before it have taken the caches: what is reported is
    a flow that runs, or trains, again and again. A variant that is ahead of the others, because its turns are longer,
    sits turns out, so that every variant is measured over the whole time and none for longer than asked.

    Args:
        variants: for each its calls, one for every set of inputs, used in rotation.
        budget: how long to measure.
        stopwatch: from `stopwatch_for`.
        tell: takes how much of the measurement is done, 0 to 1, whenever another twentieth is.
        between: runs before every timed call, such as a pause. A turn then has three calls, and a variant
            `BETWEEN_REPEATS` at most: the time of most such calls goes by between them.

    Returns:
        For each variant, quantiles of its time per call.
    """
    calls = {name: _rotating(each) for name, each in variants.items()}
    typical = {name: _warm_up(call, budget, stopwatch) for name, call in calls.items()}
    bursts = {name: 3 if between else _burst(typical[name], budget) for name in calls}
    if between:
        budget = replace(budget, measure_s=0.0, min_repeats=min(budget.min_repeats, BETWEEN_REPEATS))
    samples = {name: _Samples() for name in calls}
    told, share = 0, 0.0
    with _without_garbage_collection():
        while share < 1:
            for name, call in calls.items():
                if _share(samples[name], budget) <= share:
                    _take_turn(call, bursts[name], samples[name], stopwatch, between)
            share = min(_share(sample, budget) for sample in samples.values())
            if (twentieths := int(20 * min(share, 1.0))) > told:
                told = twentieths
                tell(told / 20)
    return {name: quantiles(sample.wall, sample.device) for name, sample in samples.items()}


def stopwatch_for(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> Stopwatch:
    """A stopwatch that waits for the device's work to end; `clock` gives seconds."""

    def host(function: Callable[[], Any]) -> tuple[float, float | None]:
        start = clock()
        function()
        return clock() - start, None

    def cuda(function: Callable[[], Any]) -> tuple[float, float | None]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(device)
        torch.cuda.synchronize(device)
        start = clock()
        begin.record(stream)
        function()
        end.record(stream)
        torch.cuda.synchronize(device)
        # elapsed_time gives milliseconds.
        return clock() - start, begin.elapsed_time(end) / 1e3

    return cuda if device.type == "cuda" else host


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Run PyTorch on `count` threads inside this context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rotating(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    cycle = itertools.cycle(calls)
    return lambda: next(cycle)()


def _warm_up(call: Callable[[], Any], budget: Budget, stopwatch: Stopwatch) -> float:
    """Run for the warm-up's time, at least once; the median call's time.

    One call's would not do: were it held up, bursts would become so short that measuring takes hours.
    """
    times: list[float] = []
    spent = 0.0
    while not times or spent < budget.warmup_s:
        times.append(stopwatch(call)[0])
        spent += times[-1]
    return statistics.median(times)


def _burst(typical: float, budget: Budget) -> int:
    """How many timed calls a turn has; one where the caches cannot matter, because a call takes ten turns' time."""
    if typical > 10 * budget.turn_s:
        return 1
    return max(3, min(10_000, int(budget.turn_s / max(typical, 1e-9))))


def _take_turn(
    call: Callable[[], Any],
    burst: int,
    samples: _Samples,
    stopwatch: Stopwatch,
    between: Callable[[], None] | None,
) -> None:
    if burst > 1:
        call()
    for _ in range(burst):
        if between:
            between()
        wall, device = stopwatch(call)
        samples.wall.append(wall)
        samples.spent += wall
        if device is not None:
            samples.device.append(device)


def _share(samples: _Samples, budget: Budget) -> float:
    """How much of its measurement a variant has had; with 1 it has enough."""
    if not samples.wall:
        return 0.0
    timed = samples.spent / budget.measure_s if budget.measure_s else 1.0
    return max(min(timed, len(samples.wall) / budget.min_repeats), samples.spent / budget.limit_s)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
