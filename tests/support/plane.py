"""A vector environment without a simulator: points that move on a square, each towards a goal of its own."""

import gymnasium
import numpy as np

EPISODE = 10


class Plane(gymnasium.vector.VectorEnv):
    """Positions in [-1, 1]^2, moved by 0.3 times the action; episodes of EPISODE steps, reset in the step after."""

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs):
        self.num_envs = num_envs
        box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        parts = {"observation": gymnasium.spaces.Box(-1, 1, (3,), np.float32)}
        parts |= {"achieved_goal": box, "desired_goal": box}
        self.single_observation_space = gymnasium.spaces.Dict(parts)
        self.single_action_space = box

    def reset(self, *, seed=None, options=None):
        self.generator = np.random.default_rng(seed)
        self.positions = np.zeros((self.num_envs, 2), np.float32)
        self.goals = self.generator.uniform(-1, 1, (self.num_envs, 2)).astype(np.float32)
        # Episodes that do not end together.
        self.time = np.arange(self.num_envs) % EPISODE
        self.over = np.zeros(self.num_envs, bool)
        return self._observed(), {}

    def step(self, actions):
        self.positions = np.clip(self.positions + 0.3 * actions, -1, 1)
        self.time += 1
        self.positions[self.over] = 0
        self.time[self.over] = 0
        self.goals[self.over] = self.generator.uniform(-1, 1, (int(self.over.sum()), 2))
        self.over = self.time == EPISODE
        nothing = np.zeros(self.num_envs, bool)
        return self._observed(), np.zeros(self.num_envs), nothing, self.over.copy(), {}

    def _observed(self):
        time = (self.time / EPISODE).astype(np.float32)[:, None]
        observation = np.concatenate([self.positions, time], 1)
        return {"observation": observation, "achieved_goal": self.positions.copy(), "desired_goal": self.goals.copy()}
