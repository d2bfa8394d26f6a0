"""The study's pictures, as PNG bytes: distance from the density against an action's and a training's time.

Need matplotlib.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from nfkern.bench.studies.drawing import draw_front, draw_legend, png, style
from nfkern.bench.studies.quality.policies import POLICIES
from nfkern.bench.studies.quality.records import TRUTH, Results
from nfkern.bench.studies.quality.summary import OURS, Summary, points, summaries, time_of_action, training_time
from nfkern.bench.studies.summary import front

_COLUMNS = 3
CAPTION = (
    "Sliced Wasserstein distance from the density (below is better) against the median time of one action (left is "
    "better), both on logarithmic axes; bars are a standard deviation over seeds to either side. The line joins the "
    "policies to which none is preferable in both; nothing can be expected below the dashed line, the distance of an "
    "equally large sample of the density itself. nfkern's own policies are the large points."
)
TRAINING_CAPTION = "The same against the CPU seconds of a training; two policies that share one have the same."


@dataclass(frozen=True)
class Cost:
    """What a picture sets the distance against: the axis's words, its units in a second, and where it comes from."""

    label: str
    units: float
    of: Callable[[Summary], float | None]


ACTION = Cost("time of one action, ms", 1e3, time_of_action)
TRAINING = Cost("training, CPU seconds", 1.0, training_time)


def pareto(results: Results, cost: Cost = ACTION) -> bytes:
    """One panel for each density, and the legend in a place of its own."""
    found = summaries(results)
    rows = -(-(len(found) + 1) // _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axis, (density, policies) in zip(axes, found.items(), strict=False):
        _panel(axis, density, policies, cost)
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    names = [name for name in POLICIES if any(name in policies for policies in found.values())]
    draw_legend(axes[len(found)], {name: _style(name) for name in names})
    return png(figure)


def _panel(axis: Any, density: str, policies: dict[str, Summary], cost: Cost) -> None:
    found = points(policies.values(), cost.of)
    for name, (seconds, distance) in found.items():
        spread = policies[name].sliced_wasserstein
        error = spread.deviation if spread else None
        # A bar down to zero or below has no place on this axis.
        below = None if error is None else [[min(error, 0.9 * distance)], [error]]
        axis.errorbar([seconds * cost.units], [distance], yerr=below, linestyle="", capsize=2, **_style(name))
    draw_front(axis, [(found[name][0] * cost.units, found[name][1]) for name in front(found)])
    if TRUTH in policies and (floor := policies[TRUTH].sliced_wasserstein):
        axis.axhline(floor.mean, color="0.4", linestyle="--", linewidth=1, zorder=0)
    axis.set(xscale="log", yscale="log", title=density, xlabel=cost.label, ylabel="sliced Wasserstein")
    # Distances and trainings span a decade or less: powers of ten alone would leave one tick.
    for each in (axis.xaxis, axis.yaxis) if cost is TRAINING else (axis.yaxis,):
        each.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        each.set_minor_formatter(NullFormatter())
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(FormatStrFormatter("%g"))


def _style(name: str) -> dict[str, Any]:
    return style(name, POLICIES, OURS)
