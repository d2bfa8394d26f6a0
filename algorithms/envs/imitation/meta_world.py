"""Meta-World's fifty tasks of a robot arm, with the scripted policies of its package as demonstrators.

Source: Yu et al., "Meta-World", 2019, https://arxiv.org/abs/1910.10897. Its package needs a MuJoCo of its own, so it is
an extra of its own.
"""

import warnings
from typing import Any

import gymnasium
import metaworld
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from nfkern.errors import UserError

VERSION = "v3"


class MetaWorld(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Observations are hand, objects and goal, now and a step ago (39,); actions move the hand and close it (4,).

    An episode ends with success, from one of fifty starts that its seed chooses.
    """

    # Its cameras in the corners look at the scene upside down.
    video_camera = "topview"

    def __init__(self, task: str) -> None:
        name = _known(task)
        benchmark = metaworld.MT1(name, seed=0)
        super().__init__(benchmark.train_classes[name]())
        self._starts = benchmark.train_tasks
        # The environment's own bounds are narrower than what it observes.
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (39,), np.float32)
        self._random = np.random.default_rng()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start anew; there are no options."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        inner: Any = self.env
        inner.set_task(self._starts[self._random.integers(len(self._starts))])
        observation, info = inner.reset(seed=seed)
        return np.asarray(observation, dtype=np.float32), info | {"success": False}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the arm; rewards are Meta-World's."""
        observation, reward, _, truncated, info = self.env.step(np.asarray(action, dtype=np.float32))
        success = bool(info["success"])
        info["success"] = success
        return np.asarray(observation, dtype=np.float32), float(reward), success, truncated, info


class MetaWorldExpert:
    """The scripted policy of a task, which has one way to do it."""

    def __init__(self, task: str) -> None:
        self._policy = ENV_POLICY_MAP[_known(task)]()

    def begin(self, generator: np.random.Generator) -> None:
        """Nothing is chosen."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The policy's action, within its bounds."""
        with warnings.catch_warnings():
            # Some policies ask for more than there is, and say so.
            warnings.filterwarnings("ignore", message="Constant\\(s\\) may be too high")
            action = self._policy.get_action(observation.astype(np.float64))
        return np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)


def _known(task: str) -> str:
    name = f"{task}-{VERSION}"
    if name not in ENV_POLICY_MAP:
        tasks = ", ".join(known.removesuffix(f"-{VERSION}") for known in ENV_POLICY_MAP)
        raise UserError(f"Meta-World has no task {task!r}: it has {tasks}")
    return name
