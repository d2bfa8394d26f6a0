"""The picture of a study, as PNG bytes: quality against costs, a row a condition. Needs matplotlib."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, PercentFormatter

from nfkern.bench.studies.summary import Cost, Measure, Row, Rows, front

Look = Mapping[str, Mapping[str, Any]]
"""The style of each policy."""

# Colours that stay apart for colour-blind readers too (Okabe and Ito's), and a shape for each colour's second turn.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SHAPES = ("o", "s", "^")


def styles(names: Iterable[str], ours: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A style for each policy, the same wherever it is drawn; nfkern's own are larger."""
    return {
        name: {
            "color": _COLOURS[index % len(_COLOURS)],
            "marker": _SHAPES[index // len(_COLOURS)],
            "markersize": 10 if name in ours else 6,
        }
        for index, name in enumerate(names)
    }


def draw(
    rows: Rows, lines: Mapping[str, float | None], measure: Measure, costs: tuple[Cost, Cost], look: Look
) -> bytes:
    """A panel for each condition and cost, and the legend in a place of its own; `lines` are dashed."""
    figure = Figure(figsize=(11.5, 3.6 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, width_ratios=(5, 5, 2))
    for (condition, policies), (*panels, rest) in zip(rows.items(), axes, strict=True):
        rest.set_axis_off()
        known = {name: row for name, row in policies.items() if name in look}
        for axis, cost in zip(panels, costs, strict=True):
            _panel(axis, measure, known, cost, look)
            axis.set(title=condition, xlabel=cost.label, ylabel=measure.label)
            if (value := lines[condition]) is not None:
                axis.axhline(value, color="0.4", linestyle="--", linewidth=1, zorder=0)
    shown = {name: look[name] for name in look if any(name in policies for policies in rows.values())}
    handles = [axes[0, 2].plot([], [], linestyle="", label=name, **each)[0] for name, each in shown.items()]
    axes[0, 2].legend(handles=handles, loc="center", frameon=False)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _panel(axis: Any, measure: Measure, rows: Mapping[str, Row], cost: Cost, look: Look) -> None:
    if cost.curves:
        for name, row in rows.items():
            if row.curve:
                axis.plot(*zip(*row.curve, strict=True), linewidth=1, **look[name])
        axis.set_xlim(left=0)
    else:
        _points(axis, measure, rows, cost, look)
        axis.set_xscale("log")
        _ticks(axis.xaxis)
    if measure.sign > 0:
        axis.set_yscale("log")
        _ticks(axis.yaxis)
    else:
        # Marks at the ends of the axis are not cut off.
        axis.set_ylim(-0.04, 1.04)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0))


def _points(axis: Any, measure: Measure, rows: Mapping[str, Row], cost: Cost, look: Look) -> None:
    found = measure.points(rows, cost.name)
    drawn = {name: (seconds * cost.units, measure.sign * loss) for name, (seconds, loss) in found.items()}
    for name, (x, y) in drawn.items():
        spread = rows[name].spread(measure.name)
        error = spread.deviation if spread else None
        # A bar down to zero or below has no place on a logarithmic axis.
        both = None if error is None else [[min(error, 0.9 * y) if measure.sign > 0 else error], [error]]
        axis.errorbar([x], [y], yerr=both, linestyle="", capsize=2, **look[name])
    if best := front(found):
        axis.plot(
            *zip(*(drawn[name] for name in best), strict=True),
            color="0.6",
            linewidth=1,
            zorder=0,
            drawstyle="steps-post",
        )


def _ticks(axis: Any) -> None:
    """Plain numbers; a decade or less has more ticks than powers of ten alone would leave."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FormatStrFormatter("%g"))
    axis.set_minor_formatter(NullFormatter())
