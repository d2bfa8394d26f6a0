"""PushT: a T-shaped block to be pushed onto its outline, in the simulator of gym-pusht, observed by keypoints.

Source: Chi et al., "Diffusion Policy", 2023, https://arxiv.org/abs/2303.04137. Their observation has nine keypoints,
drawn at random on the block, and the effector: twenty numbers. gym-pusht's has the block's eight corners and the
effector: eighteen. `keypoint_observations` computes the latter from the states of the published demonstrations.
"""

from typing import Any, cast

import gymnasium
import numpy as np
import pymunk
from gym_pusht.envs.pusht import PushTEnv


class PushT(gymnasium.Wrapper[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]):
    """Observations are the block's corners and the effector (18,), actions where the effector shall go (2,), in pixels.

    An episode ends with success once 95 % of the outline is covered. The score is the share covered now.
    """

    def __init__(self) -> None:
        super().__init__(PushTEnv(obs_type="environment_state_agent_pos"))
        # Corners may reach over the border.
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (18,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start with block and effector anywhere; `options` are gym-pusht's."""
        observation, info = self.env.reset(seed=seed, options=options)
        return _flat(observation), info | {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the effector towards a point for a tenth of a second."""
        observation, reward, terminated, truncated, info = self.env.step(np.asarray(action, dtype=np.float64))
        info |= {"success": info["is_success"], "score": float(info["coverage"])}
        return _flat(observation), float(reward), bool(terminated), truncated, info

    def picture(self, size: int) -> np.ndarray:
        """The table from above, (size, size, 3) uint8, with the outline in green."""
        # Below 96 pixels gym-pusht cannot draw its lines: smaller pictures are averaged.
        inner, scale = cast(Any, self.unwrapped), -(-96 // size)
        inner.visualization_width = inner.visualization_height = size * scale
        fine = np.asarray(inner.render(), dtype=np.float64).reshape(size, scale, size, scale, 3)
        return np.asarray(fine.mean((1, 3)).round().astype(np.uint8))


def _flat(observation: Any) -> np.ndarray:
    return np.concatenate([observation["environment_state"], observation["agent_pos"]]).astype(np.float32)


def keypoint_observations(states: np.ndarray) -> np.ndarray:
    """`PushT`'s observations of states.

    Args:
        states: (rows, 5): the effector's position, the block's, and its angle in radians.

    Returns:
        (rows, 18) float32.
    """
    _, shapes = PushTEnv.add_tee(pymunk.Space(), (0, 0), 0)
    corners = np.array([corner for shape in shapes for corner in cast(pymunk.Poly, shape).get_vertices()])
    cosine, sine = np.cos(states[:, 4]), np.sin(states[:, 4])
    rotations = np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], -2)
    keypoints = corners @ rotations.swapaxes(-1, -2) + states[:, None, 2:4]
    return np.concatenate([keypoints.reshape(len(states), -1), states[:, :2]], 1).astype(np.float32)
