"""Mazes for goal-conditioned RL without rewards or data: a point mass or an ant, in the three layouts of JaxGCRL.

Physics and robots are gymnasium-robotics'; layouts, goals and the ant's tolerance are JaxGCRL's, the hard goals those
of the paper's code, which as here lets an ant go on that fell over. An episode is a function of its seed and the
actions alone, and keeps its goal to the end, reached or not.

Where JaxGCRL differs: it ends an ant's episode when the ant falls over or jumps, perturbs joints and velocities at the
start instead of the position, and lets x grow with the rows.
"""

import functools
import os
from typing import Any, Literal, cast

import gymnasium
import numpy as np

from nfkern.algorithms.envs.maze_layouts import MAZES, MazeLayout, layout
from nfkern.algorithms.envs.quiet_imports import without_adroit_notice
from nfkern.errors import UserError
from nfkern.host.packages import install_command

__all__ = ["MAZES", "GoalMaze", "MazeLayout", "layout", "make_maze", "make_vector_maze"]

Goals = Literal["all", "hard"]
Observation = dict[str, np.ndarray]

# As a fraction of a cell: 0.1 m for the ant.
_START_NOISE = 0.025


class GoalMaze(gymnasium.Wrapper[Observation, np.ndarray, Observation, np.ndarray]):
    """A maze of gymnasium-robotics with one goal per episode, from a list of cells, and the whole state observed.

    Attributes:
        layout: the maze's cells.
    """

    def __init__(self, env: gymnasium.Env[Observation, np.ndarray], maze: MazeLayout, goals: Goals) -> None:
        """Wrap an environment.

        Args:
            env: a `PointMazeEnv` or `AntMazeEnv` of gymnasium-robotics, built on the cells of `maze`.
            maze: the cells.
            goals: "all" draws goals among all of the maze's, "hard" among the hard ones.
        """
        super().__init__(env)
        self.layout = maze
        self._goal_cells = maze.hard_goals if goals == "hard" else maze.goals
        self._goal = np.zeros(2, dtype=np.float32)
        self._inner = cast(Any, self.unwrapped)
        data = self._inner.data
        sizes = {"observation": data.qpos.size + data.qvel.size, "achieved_goal": 2, "desired_goal": 2}
        boxes: dict[str, gymnasium.Space[Any]] = {
            key: gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32) for key, size in sizes.items()
        }
        self.observation_space = cast(gymnasium.Space[Observation], gymnasium.spaces.Dict(boxes))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: near the centre of the start cell, at rest, with the goal at the centre of a random cell.

        Args:
            seed: fixes the whole episode; None goes on with the source of randomness as it stands.
            options: {"goal_cell": (row, column)} chooses the goal; any free cell will do.

        Returns:
            The first observation and info, as of `step`.

        Raises:
            ValueError: unknown options, or the goal's cell is a wall or outside.
        """
        chosen = self._chosen_goal(options or {})
        self.env.reset(seed=seed)
        # The maze has drawn a goal of its own, with the noise that is meant for the start.
        cell = chosen or self._goal_cells[self.np_random.integers(len(self._goal_cells))]
        center = self.layout.center(*cell)
        self._inner.goal = np.array(center)
        self._inner.update_target_site_pos()
        self._goal = np.array(center, dtype=np.float32)
        observation, success = self._observe()
        return observation, {"success": success}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take one step.

        Args:
            action: (action_size,), forces or torques between -1 and 1; what lies beyond is clipped.

        Returns:
            The observation; 1.0 where the goal is reached and 0.0 elsewhere; False; False; and {"success": bool}.

        Raises:
            ValueError: the action has another shape, or is not finite.
        """
        # MuJoCo would print a warning, leave a log file behind and act as if the action were zero.
        if not np.isfinite(action).all():
            raise ValueError(f"action: expected finite numbers, got {action}")
        self.env.step(action)
        observation, success = self._observe()
        return observation, float(success), False, False, {"success": success}

    def _observe(self) -> tuple[Observation, bool]:
        """The observation, and whether it is a success: judged by the rounded numbers that the caller sees."""
        data = self._inner.data
        state = np.concatenate([data.qpos, data.qvel], dtype=np.float32, casting="same_kind")
        position, goal = state[:2].copy(), self._goal.copy()
        success = bool(np.linalg.norm(position - goal) < self.layout.tolerance)
        return {"observation": state, "achieved_goal": position, "desired_goal": goal}, success

    def _chosen_goal(self, options: dict[str, Any]) -> tuple[int, int] | None:
        if unknown := options.keys() - {"goal_cell"}:
            raise ValueError(f"options: expected goal_cell alone, got {', '.join(sorted(unknown))}")
        if options.get("goal_cell") is None:
            return None
        row, column = (int(index) for index in options["goal_cell"])
        if (row, column) not in self.layout.free:
            raise ValueError(f"options: expected a free cell of the maze as goal_cell, got ({row}, {column})")
        return row, column


def make_maze(
    name: str, *, max_episode_steps: int = 1000, goals: Goals = "all"
) -> gymnasium.Env[Observation, np.ndarray]:
    """Make a maze.

    Observations are a dict of float32 arrays: "observation", positions and then velocities of the whole robot, x and y
    first: 4 numbers for the point mass, 29 for the ant; "achieved_goal" (2,), again x and y; "desired_goal" (2,).
    Actions are float32 from -1 to 1: 2 forces for the point mass, held for 0.01 s; 8 torques for the ant, for 0.05 s.

    Every episode starts within 2.5 % of a cell's side of the start cell's centre, along x and along y, and has its goal
    at the exact centre of a goal cell. It never terminates, and is truncated after `max_episode_steps`.

    Args:
        name: one of `MAZES`.
        max_episode_steps: length of an episode, in steps.
        goals: "all" draws goals among all of the maze's, "hard" among the layout's `hard_goals`.

    Returns:
        The environment; the first reset should be given a seed.

    Raises:
        UserError: the name is unknown, or gymnasium-robotics is not installed.
        ValueError: another argument is out of range.
    """
    maze = layout(name)
    if goals not in ("all", "hard"):
        raise ValueError(f"goals: expected 'all' or 'hard', got {goals!r}")
    if max_episode_steps < 1:
        raise ValueError(f"max_episode_steps: expected at least 1, got {max_episode_steps}")
    cells: list[list[int | str]] = [[int(wall) for wall in row] for row in maze.walls]
    for row, column in maze.goals:
        cells[row][column] = "g"
    cells[maze.start[0]][maze.start[1]] = "r"

    inner: Any
    try:
        with without_adroit_notice():
            if name.startswith("point"):
                from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

                inner = PointMazeEnv(maze_map=cells, reset_target=False)
            else:
                from gymnasium_robotics.envs.maze.ant_maze_v5 import AntMazeEnv

                inner = AntMazeEnv(maze_map=cells, reset_target=False, include_cfrc_ext_in_observation=False)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} needs {error.name}: {install_command(error.name or '')}") from error
    # The model has been read: nothing else looks at the file that it was read from.
    os.unlink(inner.tmp_xml_file_path)
    # As an argument, both classes would hand it on to a simulator that does not know it.
    inner.position_noise_range = _START_NOISE
    ordered = gymnasium.wrappers.OrderEnforcing(GoalMaze(inner, maze, goals))
    return gymnasium.wrappers.TimeLimit(ordered, max_episode_steps)


def make_vector_maze(
    name: str, num_envs: int, *, max_episode_steps: int = 1000, goals: Goals = "all"
) -> gymnasium.vector.SyncVectorEnv:
    """Make several mazes of one name that are stepped together.

    The step after a truncation ignores its action and starts the next episode, with reward 0. `info["success"]` is a
    bool array of shape (num_envs,). Each point mass takes 11 MB and 60 ms to make, for textures that are never drawn;
    each ant 1 MB and 5 ms.

    Args:
        name: as for `make_maze`.
        num_envs: how many.
        max_episode_steps: as for `make_maze`.
        goals: as for `make_maze`.

    Returns:
        The environments; observations are the dict of `make_maze` with a first axis of `num_envs`.

    Raises:
        UserError: the name is unknown, or gymnasium-robotics is not installed.
        ValueError: another argument is out of range.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs: expected at least 1, got {num_envs}")
    make = functools.partial(make_maze, name, max_episode_steps=max_episode_steps, goals=goals)
    return gymnasium.vector.SyncVectorEnv([make] * num_envs, autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP)
