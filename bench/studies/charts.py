"""Charts of a study, as Vega-Lite: quality of policies under a condition against a cost."""

from collections.abc import Iterable, Mapping
from typing import Any

from nfkern.bench.studies.summary import Cost, Measure, Row, front

Looks = dict[str, tuple[str, str]]
"""Colour and shape of each policy."""

_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down")
_SECONDS = "format(datum.value, '~s') + 's'"
_TICKS = [step * 10.0**power for power in range(-7, 7) for step in (1, 2, 5)]


def colours_and_shapes(names: Iterable[str], ours: Iterable[str]) -> Looks:
    """Return a look for each policy, the same in every chart; the green of the page is nfkern's own."""
    own, looks = list(ours), {}
    for place, name in enumerate(own + [name for name in names if name not in own]):
        colour = "var(--ours)" if name in own else f"var(--c{place % 6})"
        looks[name] = colour, _SHAPES[place % len(_SHAPES)]
    return looks


def chart(rows: Mapping[str, Row], measure: Measure, cost: Cost, line: float | None, looks: Looks) -> dict[str, Any]:
    """Return a chart of policies that have a look, with a dashed line at a value of the measure."""
    known = {name: rows[name] for name in looks if name in rows}
    layers = [_line(line)] if line is not None else []
    layers += _curves(known) if cost.curves else _points(known, measure, cost)
    names = [name for name in known if any(each["policy"] == name for each in layers[-1]["data"]["values"])]
    legend = {"orient": "bottom", "columns": 2, "columnPadding": 20}
    for channel, values in zip(("color", "shape"), zip(*(looks[name] for name in names), strict=True), strict=False):
        scale = {"domain": names, "range": list(values)}
        encoded = {"field": "policy", "type": "nominal", "title": None, "scale": scale, "legend": legend}
        layers[-1]["encoding"][channel] = encoded
    ticks = {"values": _TICKS, "labelExpr": _SECONDS, "labelOverlap": True}
    x = {"scale": {"type": "log", "nice": False, "padding": 12}, "axis": ticks}
    if cost.curves:
        x = {"scale": {"zero": True, "nice": False, "padding": 8}, "axis": {"labelExpr": _SECONDS}}
    y: dict[str, Any] = {"scale": {"domain": [0, 1], "nice": False, "padding": 8}, "axis": {"format": ".0%"}}
    if measure.sign > 0:
        y = {"scale": {"type": "log", "nice": False, "padding": 8}, "axis": {"values": _TICKS, "labelOverlap": True}}
    layers[-1]["encoding"]["x"] |= x | {"title": cost.label}
    layers[-1]["encoding"]["y"] |= y | {"title": measure.label}
    return {"layer": layers, "width": 280, "height": 240}


def _line(value: float) -> dict[str, Any]:
    mark = {"type": "rule", "color": "var(--soft)", "strokeDash": [4, 4]}
    return _layer(mark, [{"y": value}], "y")


def _points(rows: Mapping[str, Row], measure: Measure, cost: Cost) -> list[dict[str, Any]]:
    """Means with deviations, and steps along those to which none is preferable."""
    found = measure.points(rows, cost.name)
    values = []
    for name, (x, loss) in found.items():
        y, spread = measure.sign * loss, rows[name].spread(measure.name)
        deviation = (spread.deviation if spread else None) or 0.0
        # A bar down to zero or below has no place on a logarithmic axis.
        low = max(y - deviation, 0.1 * y) if measure.sign > 0 else y - deviation
        values.append({"policy": name, "x": x, "y": y, "low": low, "high": y + deviation})
    best = [{"x": found[name][0], "y": measure.sign * found[name][1]} for name in front(found)]
    steps = {"type": "line", "interpolate": "step-after", "color": "var(--soft)", "strokeWidth": 1}
    bars = _layer({"type": "rule", "color": "var(--soft)", "clip": True}, values, "x")
    bars["encoding"] |= {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}}
    marks = _layer({"type": "point", "filled": True, "size": 60, "opacity": 1}, values, "x", "y")
    return [_layer(steps, best, "x", "y"), bars, marks]


def _curves(rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    values = [{"policy": name, "x": x, "y": y} for name, row in rows.items() for x, y in row.curve]
    mark = {"type": "line", "strokeWidth": 1.5, "point": {"filled": True, "size": 40}}
    return [_layer(mark, values, "x", "y")]


def _layer(mark: dict[str, Any], values: list[dict[str, Any]], *axes: str) -> dict[str, Any]:
    encoding: dict[str, Any] = {axis: {"field": axis, "type": "quantitative"} for axis in axes}
    return {"data": {"values": values}, "mark": mark, "encoding": encoding}
