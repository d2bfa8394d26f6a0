"""Curves on two logarithmic axes, as SVG that takes its colours from the page and keeps its text selectable."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from nfkern.bench.registry import VARIANTS
from nfkern.bench.report.labels import is_ours, standing

_WIDTH, _HEIGHT = 520, 470
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 478, 12, 420
_COLOURS = 7
# Within radius 1 of the origin.
_MARKS = (
    "M-.9,0a.9,.9 0 1 0 1.8,0a.9,.9 0 1 0 -1.8,0Z",
    "M-.8,-.8H.8V.8H-.8Z",
    "M0,-1L1,.8H-1Z",
    "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "M0,1L1,-.8H-1Z",
    "M-.8,-.9H.8L-.8,.9H.8Z",
    "M.8,-1V1L-1,0Z",
    "M-1,0H1M0,-1V1",
    "M-.8,-.8L.8,.8M-.8,.8L.8,-.8",
)
# Numbers at the curves' ends, and ticks, need this much room.
_LINE, _TICK = 15.0, 34.0


@dataclass(frozen=True)
class Look:
    """How a variant is drawn, in every picture alike.

    Attributes:
        kind: "own", or its standing: width and dashes.
        mark: of `_MARKS`.
        full: whether marks are filled; with `kind` and `mark` it tells variants apart without their colour.
        colour: a variable of the page's style.
    """

    kind: str
    mark: int
    full: bool
    colour: str

    @property
    def attributes(self) -> str:
        """Class and style of what is drawn so."""
        return f'class="curve {self.kind}{" full" if self.full else ""}" style="--c:var(--{self.colour})"'


def look(variant: str) -> Look:
    """Of a variant by name; all that are no longer known look alike."""
    kind = _kind(variant)
    alike = [name for name in VARIANTS if _kind(name) == kind]
    place = alike.index(variant) if variant in alike else len(alike)
    turn, mark = divmod(place, len(_MARKS))
    # Shifted for others, so that the first of them and nfkern's first are of two colours.
    shift = 0 if kind == "own" else 4
    colour = "soft" if kind == "floor" else f"c{(place + shift) % _COLOURS}"
    return Look(kind, mark, (kind == "own") != (turn % 2 == 1), colour)


def sample(variant: str) -> str:
    """A piece of its curve, for a legend."""
    shown = look(variant)
    return (
        f'<svg {shown.attributes} viewBox="0 0 44 14" '
        f'aria-hidden="true"><polyline points="2,7 42,7"/>{_mark(shown, 22, 7)}</svg>'
    )


def loglog(
    curves: Mapping[str, Mapping[int, float]],
    labels: tuple[str, str],
    said: Callable[[float], str],
) -> str:
    """A picture of values by x, all above 0, with a number at the end of each curve: its place in `curves`.

    Args:
        curves: by variant, at least one with a point.
        labels: of the two axes.
        said: a value in words.
    """
    xs = sorted({x for curve in curves.values() for x in curve})
    ys = [y for curve in curves.values() for y in curve.values()]
    across = _Scale(xs[0] / 1.15, xs[-1] * 1.15, _LEFT, _RIGHT)
    up = _Scale(min(ys) / 1.3, max(ys) * 1.3, _BOTTOM, _TOP)
    parts = [*_across(across, xs), *_up(up, said)]
    parts.append(f'<path class="frame" d="M{_LEFT},{_TOP}V{_BOTTOM}H{_RIGHT}"/>')
    ends = _apart([up(curve[max(curve)]) for curve in curves.values()])
    for number, ((name, curve), end) in enumerate(zip(curves.items(), ends, strict=True), 1):
        parts.append(_curve(number, name, [(across(x), up(y)) for x, y in curve.items()], end, _words(curve, said)))
    parts.append(_text((_LEFT + _RIGHT) / 2, _HEIGHT - 8, labels[0]))
    label = escape(f"{labels[1]} against {labels[0]}, logarithmic: the table beside it has the curves")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


@dataclass(frozen=True)
class _Scale:
    """From values between `low` and `high` to places between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)


def _across(scale: _Scale, xs: Sequence[int]) -> list[str]:
    """Ticks where something was measured, as far as there is room; the largest always has it."""
    chosen: list[int] = []
    for x in reversed(xs):
        if not chosen or scale(chosen[-1]) - scale(x) >= _TICK:
            chosen.append(x)
    return [
        f'<path class="grid" d="M{scale(x):.1f},{_TOP}V{_BOTTOM}"/>{_text(scale(x), _BOTTOM + 18, f"{x}")}'
        for x in chosen
    ]


def _up(scale: _Scale, said: Callable[[float], str]) -> list[str]:
    """Powers of ten, and between them 2 and 5 where few of those are in sight."""
    decades = math.log10(scale.high / scale.low)
    steps = (1, 2, 5) if decades < 2.5 else (1,)
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [
        f'<path class="grid" d="M{_LEFT},{scale(y):.1f}H{_RIGHT}"/>{_text(_LEFT - 8, scale(y) + 4, said(y), "end")}'
        for y in ticks
        if scale.low <= y <= scale.high
    ]


def _curve(number: int, name: str, places: Sequence[tuple[float, float]], end: float, words: str) -> str:
    shown = look(name)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = "".join(_mark(shown, x, y) for x, y in places)
    x, y = places[-1]
    return (
        f'<g {shown.attributes} data-curve="{escape(name)}">'
        f'<title>{escape(f"{name}: {words}")}</title><polyline points="{line} "/>{marks}'
        f'<path class="leader" d="M{x + 6:.1f},{y:.1f}L{x + 17:.1f},{end:.1f}"/>'
        f"{_text(x + 20, end + 5, str(number), 'start')}</g>"
    )


def _mark(shown: Look, x: float, y: float) -> str:
    return (
        f'<path class="mark" vector-effect="non-scaling-stroke" '
        f'transform="translate({x:.1f},{y:.1f})scale(4.5)" d="{_MARKS[shown.mark]}"/>'
    )


def _apart(places: Sequence[float]) -> list[float]:
    """The places, moved as little as gives each a line of its own, in the same order and on the picture."""
    order = sorted(range(len(places)), key=places.__getitem__)
    # Neighbours that are too near become one block, in the middle of where its members would be.
    blocks: list[list[float]] = []
    for index in order:
        blocks.append([places[index]])
        while len(blocks) > 1 and _top(blocks[-1]) < _top(blocks[-2]) + len(blocks[-2]) * _LINE:
            last = blocks.pop()
            blocks[-1] += [place - len(blocks[-1]) * _LINE for place in last]
    moved = list(places)
    spread = [_top(block) + line * _LINE for block in blocks for line in range(len(block))]
    for index, place in zip(order, spread, strict=True):
        moved[index] = place
    return moved


def _top(block: Sequence[float]) -> float:
    """Where its first line lies; members are given as the places that they want the first line to have."""
    lowest = _BOTTOM - (len(block) - 1) * _LINE
    return max(float(_TOP), min(lowest, sum(block) / len(block)))


def _words(curve: Mapping[int, float], said: Callable[[float], str]) -> str:
    return ", ".join(f"{said(y)} at {x}" for x, y in curve.items())


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _kind(variant: str) -> str:
    return "own" if is_ours(variant) else standing(variant)
