"""A point mass that has to pass two pillars, either side of each: the smallest task with several ways to do it.

In the manner of the point mass of Shafiullah et al., "Behavior Transformers: Cloning k modes with one stone", 2022,
https://arxiv.org/abs/2206.11251. A policy that averages the ways runs into a pillar.
"""

from typing import Any

import gymnasium
import numpy as np

from nfkern.algorithms.envs.imitation import drawing

# Metres; a step of full speed goes SPEED far.
SPEED = 0.05
START, GOAL = np.array([-0.9, 0.0]), np.array([0.9, 0.0])
START_NOISE, GOAL_RADIUS = 0.05, 0.1
PILLARS, PILLAR_RADIUS = np.array([[-0.35, 0.0], [0.35, 0.0]]), 0.2


class PointMass(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observations are the position (2,), actions the velocity (2,), in units of full speed.

    An episode ends with success at the goal, and without where the mass touches a pillar. The score counts pillars
    passed and the goal.
    """

    # Left, right, bottom and top of `picture`, in the units of positions.
    table = (-1.0, 1.0, -1.0, 1.0)

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._position = START.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start near the left end; there are no options."""
        super().reset(seed=seed)
        self._position = START + self.np_random.uniform(-START_NOISE, START_NOISE, 2)
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move; the reward is 1 for the step that reaches the goal."""
        velocity = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
        self._position = np.clip(self._position + SPEED * velocity, -1.0, 1.0)
        crashed = bool((np.linalg.norm(PILLARS - self._position, axis=1) < PILLAR_RADIUS).any())
        info = self._info()
        return self._observation(), float(info["success"]), crashed or info["success"], False, info

    def picture(self, size: int) -> np.ndarray:
        """The table from above, (size, size, 3) uint8."""
        pillars = [(pillar, PILLAR_RADIUS, drawing.OBSTACLE) for pillar in PILLARS]
        return drawing.discs(size, [(GOAL, GOAL_RADIUS, drawing.GOAL), *pillars, (self._position, 0.03, drawing.AGENT)])

    def _observation(self) -> np.ndarray:
        return self._position.astype(np.float32)

    def _info(self) -> dict[str, Any]:
        success = bool(np.linalg.norm(self._position - GOAL) < GOAL_RADIUS)
        passed = int((self._position[0] > PILLARS[:, 0] + PILLAR_RADIUS).sum())
        return {"success": success, "score": (passed + success) / (len(PILLARS) + 1)}


class PointMassExpert:
    """Goes around each pillar on a side of its own choice."""

    _CLEARANCE = 0.15

    def begin(self, generator: np.random.Generator) -> None:
        """Choose the sides."""
        sides = generator.choice([-1.0, 1.0], len(PILLARS))
        # Two for each pillar, where it begins and where it ends.
        self._waypoints = [
            pillar + np.array([along * PILLAR_RADIUS, side * (PILLAR_RADIUS + self._CLEARANCE)])
            for pillar, side in zip(PILLARS, sides, strict=True)
            for along in (-1.0, 1.0)
        ]
        self._waypoints.append(GOAL)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Full speed towards the next waypoint."""
        while len(self._waypoints) > 1 and observation[0] > self._waypoints[0][0] - SPEED:
            self._waypoints.pop(0)
        direction = self._waypoints[0] - observation
        return np.asarray(direction / max(np.linalg.norm(direction), SPEED))
