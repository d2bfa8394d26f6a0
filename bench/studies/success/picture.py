"""The study's picture, as PNG bytes: success against the time of one action and against training. Needs matplotlib."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter, PercentFormatter

from nfkern.bench.studies.drawing import draw_front, draw_legend, png, style
from nfkern.bench.studies.success.policies import OURS, POLICIES
from nfkern.bench.studies.success.records import Results
from nfkern.bench.studies.success.summary import Summary, points, summaries, target
from nfkern.bench.studies.summary import front

CAPTION = (
    "Left: success after all steps (above is better) against the median time of one action on a logarithmic axis (left "
    "is better); bars are a standard deviation over seeds to either side, and the line joins the policies to which "
    "none is preferable in both. Right: mean success over seeds against the seconds of training, without evaluations; "
    "the dashed line is the success to which the tables tell the time. A single mark is a policy evaluated at the end "
    "only. nfkern's own policy has the large marks."
)


def success(results: Results) -> bytes:
    """Two panels for each environment, and the legend in a place of its own."""
    found = summaries(results)
    figure = Figure(figsize=(11.5, 3.6 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), 3, squeeze=False, width_ratios=(5, 5, 2))
    for (env, policies), (left, right, rest) in zip(found.items(), axes, strict=True):
        rest.set_axis_off()
        _against_latency(left, policies)
        _against_training(right, policies, target(results, env))
        for axis in (left, right):
            # Marks at the ends of the axis are not cut off.
            axis.set(title=env, ylim=(-0.04, 1.04), ylabel="success")
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    names = [name for name in POLICIES if any(name in policies for policies in found.values())]
    draw_legend(axes[0, 2], {name: _style(name) for name in names})
    return png(figure)


def _against_latency(axis: Any, policies: dict[str, Summary]) -> None:
    found = points(policies.values(), 1)
    for name, (seconds, failures) in found.items():
        spread = policies[name].success
        error = spread.deviation if spread else None
        axis.errorbar([seconds * 1e3], [1 - failures], yerr=error, linestyle="", capsize=2, **_style(name))
    draw_front(axis, [(found[name][0] * 1e3, 1 - found[name][1]) for name in front(found)])
    axis.set(xscale="log", xlabel="time of one action, ms")
    # Times may span less than a decade: powers of ten alone would leave no tick, and all multiples too many.
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _against_training(axis: Any, policies: dict[str, Summary], wanted: float | None) -> None:
    for name, row in policies.items():
        if row.curve and row.steps_per_second:
            seconds = [step / row.steps_per_second for step in row.curve]
            axis.plot(seconds, list(row.curve.values()), linewidth=1, **_style(name))
    if wanted is not None:
        axis.axhline(wanted, color="0.4", linestyle="--", linewidth=1, zorder=0)
    axis.set(xlabel="training, s")
    axis.set_xlim(left=0)


def _style(name: str) -> dict[str, Any]:
    return style(name, POLICIES, OURS)
