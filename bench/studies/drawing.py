"""What the studies' pictures have in common. Needs matplotlib."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Colours that stay apart for colour-blind readers too (Okabe and Ito's), and a shape for each colour's second turn.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SHAPES = ("o", "s", "^")


def style(name: str, names: Iterable[str], ours: Sequence[str]) -> dict[str, Any]:
    """The same for a policy in every picture of a study; nfkern's own are larger."""
    index = list(names).index(name)
    shape = _SHAPES[index // len(_COLOURS)]
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": shape, "markersize": 10 if name in ours else 6}


def draw_front(axis: Any, points: Sequence[tuple[float, float]]) -> None:
    """A line of steps through the front, from the cheapest on."""
    if points:
        axis.plot(*zip(*points, strict=True), color="0.6", linewidth=1, zorder=0, drawstyle="steps-post")


def draw_legend(axis: Any, styles: dict[str, dict[str, Any]]) -> None:
    """A legend that has the axis to itself."""
    axis.set_axis_off()
    handles = [axis.plot([], [], linestyle="", label=name, **each)[0] for name, each in styles.items()]
    axis.legend(handles=handles, loc="center", frameon=False)


def png(figure: Figure) -> bytes:
    """The figure as a file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def embedded(image: bytes, description: str, caption: str) -> str:
    """A picture inside a page, which scrolls where its words would become too small."""
    encoded = base64.b64encode(image).decode()
    return f"""<figure><div class="scroll" tabindex="0"><img class="picture" alt="{escape(description)}"
src="data:image/png;base64,{encoded}"></div><figcaption>{escape(caption)}</figcaption></figure>"""
