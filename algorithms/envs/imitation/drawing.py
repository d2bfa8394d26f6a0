"""Pictures of planar tasks: discs on a square table."""

from collections.abc import Iterable

import numpy as np

Colour = tuple[int, int, int]
TABLE: Colour = (245, 245, 245)
AGENT: Colour = (31, 119, 180)
GOAL: Colour = (152, 223, 138)
OBSTACLE: Colour = (90, 90, 90)
BLOCK: Colour = (255, 127, 14)


def discs(size: int, drawn: Iterable[tuple[np.ndarray, float, Colour]]) -> np.ndarray:
    """The table [-1, 1] squared from above, y upwards, with discs of (centre, radius, colour), the last on top.

    Returns:
        (size, size, 3) uint8.
    """
    pixel = 2 / size
    along = (np.arange(size) + 0.5) * pixel - 1
    x, y = np.meshgrid(along, along[::-1])
    picture = np.broadcast_to(np.array(TABLE, dtype=np.float64), (size, size, 3)).copy()
    for centre, radius, colour in drawn:
        distance = np.hypot(x - centre[0], y - centre[1])
        share = np.clip((radius - distance) / pixel + 0.5, 0, 1)[..., None]
        picture += share * (np.array(colour) - picture)
    return picture.round().astype(np.uint8)
