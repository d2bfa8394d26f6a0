"""Units of a robot's data beside those of a flow."""

import numpy as np


class Units:
    """Affine maps from a robot's observations to a flow's, and from the flow's actions to the robot's.

    Args:
        center, scale: (in_features,), of observations: the flow gets `(observation - center) / scale`.
        action_center, action_scale: (number of the event's numbers,): the robot gets `action * scale + center`.
        low, high: the smallest and largest actions, as long as these.

    Raises:
        ValueError: arrays that belong together are not of the same length.
    """

    def __init__(
        self,
        center: np.ndarray,
        scale: np.ndarray,
        action_center: np.ndarray,
        action_scale: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> None:
        observed, acted = len(center), len(action_center)
        parts = [np.asarray(part, np.float32) for part in (center, scale, action_center, action_scale, low, high)]
        expected = [(observed,)] * 2 + [(acted,)] * 4
        if [part.shape for part in parts] != expected:
            raise ValueError(f"units: expected arrays of shapes {expected}, got {[part.shape for part in parts]}")
        self.numbers = np.concatenate(parts)
        """All of them, as the C++ kernel takes them."""
        ends = np.cumsum([observed, observed, acted, acted, acted])
        self.parts = np.split(self.numbers, ends)
        """The arguments, float32."""
        self._center, self._scale, self._action_center, self._action_scale, self._low, self._high = self.parts

    def normalized(self, observations: np.ndarray) -> np.ndarray:
        """Observations (*batch, in_features) in the flow's units.

        Raises:
            ValueError: their last dimension is another.
        """
        if observations.shape[-1:] != self._center.shape:
            raise ValueError(f"observations: expected shape (..., {len(self._center)}), got {observations.shape}")
        found: np.ndarray = (observations - self._center) / self._scale
        return found

    def actions(self, normalized: np.ndarray) -> np.ndarray:
        """Actions (*batch, *event) in the robot's units, clipped.

        Raises:
            ValueError: an event has another number of numbers.
        """
        if normalized.size % len(self._low):
            raise ValueError(f"units: expected those of actions {normalized.shape}, got {len(self._low)} numbers")
        rows = normalized.reshape(-1, len(self._low))
        found: np.ndarray = np.clip(rows * self._action_scale + self._action_center, self._low, self._high)
        return found.reshape(normalized.shape)
