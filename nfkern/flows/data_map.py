"""The map from events of a flow to data: tanh of a bounded flow, and the units of the data."""

import math
from dataclasses import dataclass
from typing import Any, Self

import torch

from nfkern.flows import bounds as tanh_bounds
from nfkern.flows.bounds import Bounds

Units = tuple[tuple[float, ...], tuple[float, ...]]
"""Center and scale of each feature."""


@dataclass(frozen=True)
class DataMap:
    """Data y = center + scale * tanh(u), or the same without tanh, of events u of a flow.

    Attributes:
        bounds: of the flow; None for a map without tanh.
        units: what the data of a flow with these bounds are mapped to, y * scale + center; None if they stay.
        numbers: center, scale, low and high, (4, features); None for 0, 1, and the ends of tanh.
        log_scale: sum of the logarithms of the scales.
        event_rank: number of dimensions of an event.
    """

    bounds: Bounds | None
    units: Units | None
    numbers: torch.Tensor | None
    log_scale: float
    event_rank: int

    @classmethod
    def of(
        cls,
        bounds: Bounds | None,
        units: Units | None,
        event_shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device | None,
    ) -> Self:
        """The map of these bounds and units, in this dtype (float32 for 16 bits) and on this device."""
        event_rank = len(event_shape)
        if units is None and not isinstance(bounds, tuple):
            return cls(bounds, None, None, 0.0, event_rank)
        center, scale, low, high = affine(bounds, units, event_shape[-1])
        dtype = dtype if dtype == torch.float64 else torch.float32
        both = torch.tensor([center, scale], dtype=torch.float64, device="cpu").to(dtype)
        ends = tanh_bounds.inward(low, high, dtype)
        numbers = torch.cat([both, ends]).to(device)
        return cls(bounds, units, numbers, sum(map(math.log, scale)), event_rank)

    def fits(self, bounds: Bounds | None, units: Units | None, like: torch.Tensor) -> bool:
        """Whether this is the map of these bounds and units, for tensors like this one."""
        if self.bounds != bounds or self.units != units:
            return False
        return self.numbers is None or (self.numbers.dtype, self.numbers.device) == (like.dtype, like.device)

    def enter(self, which: str, events: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Events that the map of a flow without bounds takes in the place of these, and what `leave` needs.

        Args:
            which: the flow's map, one of `nfkern.flows.flow.Map`.
            events: (*batch, *event), data or noise, as that map takes.
        """
        if which in ("to_data", "to_data_with_score"):
            return events, None
        x = events if self.numbers is None else (events - self.numbers[0]) / self.numbers[1]
        if self.bounds is None:
            return x, (x, self._constant(x))
        x = tanh_bounds.inside(x)
        u = tanh_bounds.inverse(x)
        if which == "score":
            return u, (x, None)
        log_det = tanh_bounds.log_det(u, self.event_rank)
        return u, (x, log_det if self.numbers is None else log_det + self._constant(x))

    def leave(self, which: str, results: tuple[torch.Tensor, ...], entered: Any) -> tuple[torch.Tensor, ...]:
        """Results of a map with bounds and units, from those of the map without them."""
        if which in ("to_data", "to_data_with_score"):
            (x, log_det), scores = self.outward(results[0]), results[2:]
            # No score of a map with tanh is asked for together with its samples.
            return x, results[1] + log_det, *(self._per_unit(score) for score in scores)
        x, log_det = entered
        if which == "score":
            (score,) = results
            return (self._per_unit(score if self.bounds is None else tanh_bounds.score(x, score)),)
        return *results[:-1], results[-1] - log_det

    def outward(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Events (*batch, *event) -> data within the bounds, and log|det| of this map, (*batch)."""
        if self.bounds is None:
            return self._stretched(u), self._constant(u)
        x, log_det = tanh_bounds.squash(u, self.event_rank)
        return self._stretched(x), log_det if self.numbers is None else log_det + self._constant(u)

    def data(self, u: torch.Tensor) -> torch.Tensor:
        """Events -> data within the bounds."""
        return self._stretched(u if self.bounds is None else tanh_bounds.tanh(u))

    def _stretched(self, x: torch.Tensor) -> torch.Tensor:
        if self.numbers is None:
            return x
        center, scale, low, high = self.numbers
        y = torch.addcmul(center, x, scale)
        # Rounding may lead beyond an end.
        return y if self.bounds is None else y.clamp(low, high)

    @property
    def scale(self) -> torch.Tensor | float:
        """Units of the data in one of the events without tanh, (features,)."""
        return 1.0 if self.numbers is None else self.numbers[1]

    def _per_unit(self, score: torch.Tensor) -> torch.Tensor:
        return score if self.numbers is None else score / self.numbers[1]

    def _constant(self, events: torch.Tensor) -> float:
        """log|det| of the scales of an event, which may be a shorter sequence than the flow's."""
        return self.log_scale * (events.shape[-2] if self.event_rank == 2 else 1)


def affine(bounds: Bounds | None, units: Units | None, features: int) -> list[list[float]]:
    """Center, scale, low and high of each feature, for bounds and then units."""
    end = math.inf if bounds is None else 1.0
    low, high = bounds if isinstance(bounds, tuple) else ((-end,) * features, (end,) * features)
    found = []
    for c, s, a, b in zip(*(units or ((0.0,) * features, (1.0,) * features)), low, high, strict=True):
        middle, half = (0.0, 1.0) if bounds is None else (a / 2 + b / 2, b / 2 - a / 2)
        found.append((middle * s + c, half * s, a * s + c, b * s + c))
    return [list(each) for each in zip(*found, strict=True)]
