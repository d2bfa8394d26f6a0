"""The study's picture, as PNG bytes: distance from the density against the time of one action. Needs matplotlib."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from nfkern.bench.quality.policies import POLICIES
from nfkern.bench.quality.records import TRUTH, Results
from nfkern.bench.quality.summary import OURS, Summary, points, summaries
from nfkern.bench.studies.drawing import draw_front, draw_legend, png, style
from nfkern.bench.studies.summary import front

_COLUMNS = 3
CAPTION = (
    "Sliced Wasserstein distance from the density (below is better) against the median time of one action (left is "
    "better), both on logarithmic axes; bars are a standard deviation over seeds to either side. The line joins the "
    "policies to which none is preferable in both; nothing can be expected below the dashed line, the distance of an "
    "equally large sample of the density itself. nfkern's own policies are the large points."
)


def pareto(results: Results, batch: int = 1) -> bytes:
    """One panel for each density, and the legend in a place of its own."""
    found = summaries(results)
    rows = -(-(len(found) + 1) // _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axis, (density, policies) in zip(axes, found.items(), strict=False):
        _panel(axis, density, policies, batch)
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    names = [name for name in POLICIES if any(name in policies for policies in found.values())]
    draw_legend(axes[len(found)], {name: _style(name) for name in names})
    return png(figure)


def _panel(axis: Any, density: str, policies: dict[str, Summary], batch: int) -> None:
    found = points(policies.values(), batch)
    for name, (seconds, distance) in found.items():
        spread = policies[name].sliced_wasserstein
        error = spread.deviation if spread else None
        # A bar down to zero or below has no place on this axis.
        below = None if error is None else [[min(error, 0.9 * distance)], [error]]
        axis.errorbar([seconds * 1e3], [distance], yerr=below, linestyle="", capsize=2, **_style(name))
    draw_front(axis, [(found[name][0] * 1e3, found[name][1]) for name in front(found)])
    if TRUTH in policies and (floor := policies[TRUTH].sliced_wasserstein):
        axis.axhline(floor.mean, color="0.4", linestyle="--", linewidth=1, zorder=0)
    axis.set(xscale="log", yscale="log", title=density, xlabel="time of one action, ms", ylabel="sliced Wasserstein")
    # Distances span a decade or less: powers of ten alone would leave one tick.
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(FormatStrFormatter("%g"))


def _style(name: str) -> dict[str, Any]:
    return style(name, POLICIES, OURS)
