"""The study's picture, as PNG bytes: distance from the density against the time of one action. Needs matplotlib."""

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from nfkern.bench.quality.policies import POLICIES
from nfkern.bench.quality.records import TRUTH, Results
from nfkern.bench.quality.summary import OURS, Summary, front, points, summaries

_COLUMNS = 3
# Colours that stay apart for colour-blind readers too (Okabe and Ito's), and a shape for each colour's second turn.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SHAPES = ("o", "s", "^")

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
    legend = axes[len(found)]
    for axis in axes[len(found) :]:
        axis.set_axis_off()
    names = [name for name in POLICIES if any(name in policies for policies in found.values())]
    handles = [legend.plot([], [], linestyle="", label=name, **_style(name))[0] for name in names]
    legend.legend(handles=handles, loc="center", frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _panel(axis: Any, density: str, policies: dict[str, Summary], batch: int) -> None:
    found = points(policies.values(), batch)
    for name, (seconds, distance) in found.items():
        spread = policies[name].sliced_wasserstein
        error = spread.deviation if spread else None
        # A bar down to zero or below has no place on this axis.
        below = None if error is None else [[min(error, 0.9 * distance)], [error]]
        axis.errorbar([seconds * 1e3], [distance], yerr=below, linestyle="", capsize=2, **_style(name))
    line = [(found[name][0] * 1e3, found[name][1]) for name in front(found)]
    axis.plot(*zip(*line, strict=True), color="0.6", linewidth=1, zorder=0, drawstyle="steps-post")
    if TRUTH in policies and (floor := policies[TRUTH].sliced_wasserstein):
        axis.axhline(floor.mean, color="0.4", linestyle="--", linewidth=1, zorder=0)
    axis.set(xscale="log", yscale="log", title=density, xlabel="time of one action, ms", ylabel="sliced Wasserstein")
    # Distances span a decade or less: powers of ten alone would leave one tick.
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter(FormatStrFormatter("%g"))


def _style(name: str) -> dict[str, Any]:
    """The same for a policy in every picture."""
    index = list(POLICIES).index(name)
    shape = _SHAPES[index // len(_COLOURS)]
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": shape, "markersize": 10 if name in OURS else 6}
