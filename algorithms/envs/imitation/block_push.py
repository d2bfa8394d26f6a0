"""Two blocks to be pushed to their goals on a table, in either order: planar physics by pymunk.

In the manner of the UR3 BlockPush of Lee et al., "Behavior Generation with Latent Actions", 2024,
https://arxiv.org/abs/2403.03181: as there, six numbers are observed, two are commanded, and the score counts the blocks
that have arrived. Here the blocks are round, so that six numbers are the whole state, and lie on a plane.
"""

from typing import Any

import gymnasium
import numpy as np
import pymunk

from nfkern.algorithms.envs.imitation import drawing

# Metres; the table is [-1, 1] squared, and a step of full speed goes SPEED far.
SPEED = 0.05
AGENT_RADIUS, BLOCK_RADIUS, GOAL_RADIUS = 0.05, 0.1, 0.1
AGENT_START = np.array([0.0, -0.85])
BLOCK_STARTS = np.array([[-0.35, -0.3], [0.35, -0.3]])
START_NOISE = 0.1
GOALS = np.array([[-0.45, 0.55], [0.45, 0.55]])
# Physics steps of one control step, which lasts a second.
SUBSTEPS = 10
# The share of its speed that a block keeps for a second: friction with the table soon stops it.
DAMPING = 1e-4


class BlockPush(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observations are the positions of effector, left and right block (6,), actions the effector's velocity (2,).

    An episode ends with success once each block lies within `GOAL_RADIUS` of its goal.
    """

    # Left, right, bottom and top of `picture`, in the units of positions.
    table = (-1.0, 1.0, -1.0, 1.0)

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Box(-2.0, 2.0, (6,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put everything near its start; there are no options."""
        super().reset(seed=seed)
        noise = self.np_random.uniform(-START_NOISE, START_NOISE, (3, 2))
        self._space = pymunk.Space()
        self._space.damping = DAMPING
        self._agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self._add(self._agent, AGENT_RADIUS, AGENT_START + noise[0])
        self._blocks = [pymunk.Body(1.0, pymunk.moment_for_circle(1.0, 0.0, BLOCK_RADIUS)) for _ in BLOCK_STARTS]
        for body, position in zip(self._blocks, BLOCK_STARTS + noise[1:], strict=True):
            self._add(body, BLOCK_RADIUS, position)
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the effector; the reward is the change of the score."""
        before = self._info()["score"]
        velocity = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) * SPEED
        # It stays on the table.
        target = np.clip(np.array(self._agent.position) + velocity, -1.0, 1.0)
        self._agent.velocity = tuple((target - np.array(self._agent.position)).tolist())
        for _ in range(SUBSTEPS):
            self._space.step(1.0 / SUBSTEPS)
        info = self._info()
        return self._observation(), info["score"] - before, info["success"], False, info

    def picture(self, size: int) -> np.ndarray:
        """The table from above, (size, size, 3) uint8; a block's goal is where its centre shall be."""
        agent, *blocks = self._positions()
        goals = [(goal, GOAL_RADIUS, drawing.GOAL) for goal in GOALS]
        bodies = [(block, BLOCK_RADIUS, drawing.BLOCK) for block in blocks]
        return drawing.discs(size, [*goals, *bodies, (agent, AGENT_RADIUS, drawing.AGENT)])

    def _add(self, body: pymunk.Body, radius: float, position: np.ndarray) -> None:
        body.position = tuple(position.tolist())
        self._space.add(body, pymunk.Circle(body, radius))

    def _positions(self) -> np.ndarray:
        return np.array([self._agent.position, *(block.position for block in self._blocks)])

    def _observation(self) -> np.ndarray:
        return self._positions().ravel().astype(np.float32)

    def _info(self) -> dict[str, Any]:
        arrived = np.linalg.norm(self._positions()[1:] - GOALS, axis=1) < GOAL_RADIUS
        return {"success": bool(arrived.all()), "score": float(arrived.mean())}


class BlockPushExpert:
    """Pushes one block after the other, the first of them at random, by feedback."""

    # How close to its goal a block is brought, how far behind a block a push begins, and how sharply it steers.
    _TOLERANCE, _CLEARANCE, _STEERING = 0.5 * GOAL_RADIUS, 0.03, 4.0

    def begin(self, generator: np.random.Generator) -> None:
        """Choose the order."""
        self._order = generator.permutation(len(GOALS)).tolist()
        self._pushing = False

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Walk behind the block, then push it towards its goal."""
        agent, *blocks = observation.astype(np.float64).reshape(-1, 2)
        while len(self._order) > 1 and self._distance(blocks, self._order[0]) < self._TOLERANCE:
            self._order.pop(0)
            self._pushing = False
        block, goal = blocks[self._order[0]], GOALS[self._order[0]]
        towards = _unit(goal - block)
        contact = AGENT_RADIUS + BLOCK_RADIUS
        behind = block - towards * (contact + self._CLEARANCE)
        sideways = (agent - block) - ((agent - block) @ towards) * towards
        if np.linalg.norm(agent - behind) < SPEED:
            self._pushing = True
        elif np.linalg.norm(sideways) > 0.5 * contact or (agent - block) @ towards > 0:
            self._pushing = False
        if self._pushing:
            return _unit(towards - self._STEERING * sideways / contact)
        return self._walk(agent, behind, blocks)

    def _distance(self, blocks: list[np.ndarray], index: int) -> float:
        return float(np.linalg.norm(blocks[index] - GOALS[index]))

    def _walk(self, agent: np.ndarray, target: np.ndarray, blocks: list[np.ndarray]) -> np.ndarray:
        """Straight to the target, and along the edge of a block that is in the way."""
        way = target - agent
        direction = _unit(way)
        keep_off = AGENT_RADIUS + BLOCK_RADIUS + self._CLEARANCE
        for block in blocks:
            ahead = (block - agent) @ direction
            nearest = agent + np.clip(ahead, 0.0, np.linalg.norm(way)) * direction
            if ahead > 0 and np.linalg.norm(nearest - block) < keep_off - 1e-6:
                outward = agent - block
                tangent = np.array([-outward[1], outward[0]])
                tangent = _unit(tangent if tangent @ direction >= 0 else -tangent)
                # Outward where it is too near, so that walking along the edge does not push the block.
                too_near = max(0.0, keep_off - float(np.linalg.norm(outward))) / self._CLEARANCE
                return _unit(tangent + too_near * _unit(outward))
        return np.asarray(direction * min(1.0, np.linalg.norm(way) / SPEED))


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9))
