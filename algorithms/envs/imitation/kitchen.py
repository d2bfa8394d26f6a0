"""The Franka kitchen: a robot arm does four of seven chores, in the simulator of gymnasium-robotics.

Source: Gupta et al., "Relay Policy Learning", 2019, https://arxiv.org/abs/1910.11956; counted as in the published
imitation results, where a demonstration does any four chores.
"""

from typing import Any
from unittest import mock

import gymnasium
import mujoco
import numpy as np

from nfkern.algorithms.envs.quiet_imports import without_adroit_notice

with without_adroit_notice():
    from gymnasium_robotics.envs.franka_kitchen import franka_env, kitchen_env

ARM, OBJECTS = 9, 21
CHORES_OF_A_DEMONSTRATION = 4


class _Robot(franka_env.FrankaRobot):  # type: ignore[misc] # untyped
    """The arm, observed without a check of joint types that MuJoCo 4's enumerations do not pass."""

    def _get_obs(self) -> np.ndarray:
        position = self._noisy(self.data.qpos, self.robot_pos_noise_amp)
        velocity = self._noisy(self.data.qvel, self.robot_vel_noise_amp)
        # The arm's controller starts from what was observed.
        self._last_robot_qpos = position
        return np.concatenate([position, velocity])

    def _noisy(self, values: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
        noise = self.np_random.uniform(-1.0, 1.0, ARM)
        return np.asarray(values[:ARM] + self.robot_noise_ratio * amplitudes[:ARM] * noise)


class Kitchen(gymnasium.Wrapper[np.ndarray, np.ndarray, dict[str, Any], np.ndarray]):
    """Observations are the positions of arm and objects (30,), actions the arm's joint velocities (9,), scaled.

    An episode ends with success after four chores. The score counts those done, of four.
    """

    def __init__(self) -> None:
        with mock.patch.object(kitchen_env, "FrankaRobot", _Robot):
            env = kitchen_env.KitchenEnv(
                tasks_to_complete=list(kitchen_env.OBS_ELEMENT_GOALS), terminate_on_tasks_completed=False
            )
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (30,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ARM,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start with no chore done; there are no options."""
        observation, info = self.env.reset(seed=seed)
        return positions(observation["observation"][None])[0], info | {"success": False, "score": 0.0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the arm; the reward counts the chores done in this step."""
        observation, reward, _, truncated, info = self.env.step(np.asarray(action, dtype=np.float64))
        done = len(info["episode_task_completions"])
        success = done >= CHORES_OF_A_DEMONSTRATION
        info |= {"success": success, "score": min(1.0, done / CHORES_OF_A_DEMONSTRATION)}
        return positions(observation["observation"][None])[0], float(reward), success, truncated, info

    @property
    def video_camera(self) -> mujoco.MjvCamera:
        """The position of gymnasium-robotics' own viewer; the model has no camera there."""
        camera, place = mujoco.MjvCamera(), dict(franka_env.DEFAULT_CAMERA_CONFIG)
        camera.lookat[:] = place.pop("lookat")
        for name, value in place.items():
            setattr(camera, name, value)
        return camera


def positions(observations: np.ndarray) -> np.ndarray:
    """Positions of arm and objects (rows, 30) float32, from gymnasium-robotics' observations (rows, 59)."""
    return np.concatenate([observations[:, :ARM], observations[:, 2 * ARM : 2 * ARM + OBJECTS]], 1).astype(np.float32)
