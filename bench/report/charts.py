"""The page's charts: Vega-Lite, rendered to SVG that takes its colours from the page and needs no script."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import vl_convert

from nfkern.bench.core.units import duration
from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.labels import is_ours, standing
from nfkern.bench.report.rows import Timed

_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down")
_COLOURS = tuple(f"var(--c{number})" for number in range(6))
_DASHES = {"floor": [7, 4], "same_size": [2, 3], "own_size": [2, 3]}
# nfkern's curves are told apart by shapes and dashes: their colour is nobody else's.
_OWN_DASHES = ([1, 0], [6, 2], [2, 2], [8, 2, 2, 2])
_WORDS = {"ahead": ("var(--ours)", "circle"), "even": ("var(--soft)", "square"), "behind": ("var(--bad)", "diamond")}
_INK = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 11, "titleFontSize": 11}
_LINES = dict.fromkeys(("gridColor", "tickColor", "domainColor"), "var(--line)")
_FILE = {"ours": "#0e8a6a", "rival": "#9aa4af", "part": "#d3a94c", "ink": "#768390"}
_CONFIG = {
    "background": "transparent",
    # Room for words that the reader's font makes wider than they are measured here.
    "padding": {"left": 24, "right": 12, "top": 4, "bottom": 4},
    "axis": _INK | _LINES | {"titleFontWeight": "normal"},
    "legend": _INK,
    "view": {"stroke": None},
}


def leads(rows: Sequence[Timed]) -> str:
    """How many times as fast as its best peer nfkern is: a mark for each row, a line for each work."""
    found = [{"work": row.first.work, "ratio": row.ratio, "word": row.word} for row in rows if row.ratio]
    ratios = [row.ratio for row in rows if row.ratio]
    domain = [min(0.8, *ratios), max(2.0, *ratios)]
    x = {
        **{"field": "ratio", "type": "quantitative", "title": "times as fast as the best peer"},
        "scale": {"type": "log", "domain": domain, "nice": False, "padding": 6},
        "axis": {"values": _ticks(*domain), "format": "~g"},
    }
    looks = {name: _nominal("word", list(_WORDS), each) for name, each in _parts(_WORDS, "color", "shape").items()}
    y = {"field": "work", "type": "nominal", "sort": list(dict.fromkeys(each["work"] for each in found)), "title": None}
    even = {"data": {"values": [{"ratio": 1.0}]}, "mark": {"type": "rule", "color": "currentColor"}}
    marks = {"mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.75}, "data": {"values": found}}
    layers = [even | {"encoding": {"x": x}}, marks | {"encoding": {"x": x, "y": y, **looks}}]
    return svg({"layer": layers, "width": 200, "height": {"step": 24}})


def growth(curves: Mapping[str, Mapping[int, float]], axis: str, unit: str) -> str:
    """Values by x on two logarithmic axes, a curve for each variant.

    Args:
        curves: by variant, all values above 0.
        axis: title of the horizontal axis.
        unit: of the values, e.g. "s".
    """
    points = [{"x": x, "y": y, "variant": name} for name, curve in curves.items() for x, y in curve.items()]
    common = {"type": "quantitative", "scale": {"type": "log", "nice": False, "padding": 8}}
    xs = sorted({x for curve in curves.values() for x in curve})
    low, high = (pick(y for curve in curves.values() for y in curve.values()) for pick in (min, max))
    x = {"field": "x", "title": axis, "axis": {"values": xs, "labelOverlap": True, "format": "~d"}}
    label = f"format(datum.value, '~s') + '{unit}'"
    y = {"field": "y", "title": None, "axis": {"labelExpr": label, "values": _ticks(low / 1.5, high * 1.5)}}
    looks = {
        name: _nominal("variant", list(curves), each)
        | {"legend": {"orient": "bottom", "columns": 2, "columnPadding": 20}}
        for name, each in _parts(_looks(list(curves)), "color", "shape", "strokeDash").items()
    }
    encoding = {"x": x | common, "y": y | common, **looks}
    mark = {"type": "line", "strokeWidth": 1.5, "point": {"filled": True, "size": 30}}
    return svg({"data": {"values": points}, "mark": mark, "encoding": encoding, "width": 280, "height": 240})


def bars(times: Mapping[str, Mapping[str, float]], ours: Collection[str], parts: Collection[str]) -> str:
    """Return times in seconds as bars, a panel for each job: an SVG file, readable on white and on black.

    Args:
        times: by job and column.
        ours: columns in nfkern's colour.
        parts: columns in another colour than the rivals', for they do a part of the job.
    """
    values: list[dict[str, Any]] = [
        {"job": job, "column": column, "time": time, "text": duration(time)}
        for job, columns in times.items()
        for column, time in columns.items()
    ]
    names = list(dict.fromkeys(each["column"] for each in values))
    colours = [_FILE["ours" if name in ours else "part" if name in parts else "rival"] for name in names]
    y = {"field": "column", "type": "nominal", "sort": names, "title": None, "axis": {"ticks": False, "domain": False}}
    bar = {"mark": "bar", "encoding": {"color": _nominal("column", names, colours) | {"legend": None}}}
    text = {
        "mark": {"type": "text", "align": "left", "dx": 4},
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    # Room for the text behind the longest bar.
    x = {"field": "time", "type": "quantitative", "axis": None, "scale": {"domainMin": 0, "padding": 26, "nice": False}}
    panel = {"layer": [bar, text], "encoding": {"x": x, "y": y}, "width": 220, "height": {"step": 17}}
    ink = dict.fromkeys(("labelColor", "titleColor"), _FILE["ink"])
    drawn: str = vl_convert.vegalite_to_svg(
        {
            "data": {"values": values},
            "facet": {"field": "job", "type": "nominal", "sort": list(times), "title": None},
            "columns": 2,
            "spacing": 32,
            "spec": panel,
            "resolve": {"scale": {"x": "independent", "y": "independent"}},
            "config": {
                # A reader's font may be a quarter wider than the one that places are measured with here.
                "padding": {"left": 30, "right": 16, "top": 5, "bottom": 5},
                # Comes with vl-convert, so that the file is the same wherever it is made.
                "font": "Liberation Sans, Arial, sans-serif",
                **{"background": "transparent", "view": {"stroke": None}, "axis": ink | {"labelFontSize": 11}},
                **{"header": ink | {"labelFontSize": 12}, "text": {"color": _FILE["ink"], "fontSize": 11}},
            },
        }
    )
    return drawn


def _ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten, and 2 and 5 of each where those are few."""
    steps = (1,) if high > 300 * low else (1, 2, 5)
    ticks = (step * 10.0**power for power in range(-9, 13) for step in steps)
    return [tick for tick in ticks if low <= tick <= high]


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str, list[int]]]:
    """Colour, shape and dashes of each variant of a chart, in the order given."""
    looks = {}
    for ours in (True, False):
        alike = [name for name in (*VARIANTS, *names) if name in names and is_ours(name) == ours]
        for place, name in enumerate(dict.fromkeys(alike)):
            colour = "var(--ours)" if ours else _COLOURS[place % len(_COLOURS)]
            dash = _OWN_DASHES[place % len(_OWN_DASHES)] if ours else _DASHES.get(standing(name), [1, 0])
            # With more colours than shapes, thirty variants have a pair each.
            shape = _SHAPES[place % len(_SHAPES)]
            looks[name] = ("var(--soft)" if standing(name) == "floor" else colour, shape, dash)
    return {name: looks[name] for name in names}


def _parts(looks: Mapping[str, tuple[Any, ...]], *channels: str) -> dict[str, list[Any]]:
    return dict(zip(channels, map(list, zip(*looks.values(), strict=True)), strict=True))


def _nominal(field: str, names: Sequence[str], looks: Sequence[Any]) -> dict[str, Any]:
    return {"field": field, "type": "nominal", "title": None, "scale": {"domain": names, "range": looks}}


def svg(chart: dict[str, Any]) -> str:
    """Return a Vega-Lite chart as SVG."""
    drawn: str = vl_convert.vegalite_to_svg(chart | {"config": _CONFIG})
    # As wide as the page's style says.
    return re.sub(r'^<svg [^>]*?width="[\d.]+" height="[\d.]+"', '<svg class="chart" role="img"', drawn)
