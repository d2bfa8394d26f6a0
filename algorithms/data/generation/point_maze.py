"""Point-maze episodes by OGBench's breadth-first oracle."""

import functools
from typing import Any

import numpy as np

from nfkern.algorithms.data.recipes import PointMazeRecipe

from .seeding import seeded_reset

Cell = tuple[int, int]

STITCH_DISTANCE = 4


class PointMazeCollector:
    """Collects single episodes of one point-maze recipe.

    Args:
        recipe: What to collect.
    """

    def __init__(self, recipe: PointMazeRecipe) -> None:
        self._recipe = recipe
        self._environment = _make_environment(recipe)
        self._maze = self._environment.unwrapped
        free = np.asarray(self._maze.maze_map) == 0
        self._cells: list[Cell] = [(int(i), int(j)) for i, j in np.argwhere(free)]
        self._junctions = [cell for cell in self._cells if not _is_corridor(free, cell)]
        # The search depends on the two cells only; repeating it at every step takes most of the time.
        self._subgoal = functools.cache(self._find_subgoal)

    def collect(self, seed: np.random.SeedSequence) -> dict[str, np.ndarray]:
        """Return one episode as arrays of `episode_rows` rows in OGBench's schema."""
        maze, rows = self._maze, self._recipe.episode_rows
        # Start and goal come from their own stream: the reset that seeds everything else already needs them.
        start, goal = self._start_and_goal(np.random.default_rng(seed.spawn(1)[0]))
        observation, _, generator = seeded_reset(
            self._environment, seed, options={"task_info": {"init_ij": start, "goal_ij": goal}}
        )
        episode = {
            key: np.zeros((rows, 2), dtype=np.float32) for key in ("observations", "actions", "qpos", "qvel")
        } | {"terminals": np.zeros(rows, dtype=bool)}
        for row in range(rows):
            action = self._act(generator)
            next_observation, _, terminated, truncated, info = self._environment.step(action)
            episode["observations"][row] = observation
            episode["actions"][row] = action
            episode["terminals"][row] = terminated or truncated
            episode["qpos"][row] = info["prev_qpos"]
            episode["qvel"][row] = info["prev_qvel"]
            if info["success"] and self._recipe.collection == "navigate":
                # `set_goal(cell)` would write NaN into the marker's position: give it coordinates.
                maze.set_goal(goal_xy=maze.add_noise(maze.ij_to_xy(_choose(generator, self._junctions))))
            observation = next_observation
        return episode

    def _start_and_goal(self, generator: np.random.Generator) -> tuple[Cell, Cell]:
        start = _choose(generator, self._cells)
        if self._recipe.collection == "navigate":
            return start, _choose(generator, self._junctions)
        start_xy = self._maze.ij_to_xy(start)
        _, distances = self._maze.get_oracle_subgoal(start_xy, start_xy)
        nearby = [cell for cell in self._cells if distances[cell] == STITCH_DISTANCE]
        return start, _choose(generator, nearby) if nearby else start

    def _act(self, generator: np.random.Generator) -> np.ndarray:
        position = self._maze.get_xy()
        subgoal = self._subgoal(self._maze.xy_to_ij(position), self._maze.xy_to_ij(self._maze.cur_goal_xy))
        direction = subgoal - position
        direction = direction / (np.linalg.norm(direction) + 1e-6)
        noise = generator.normal(0.0, self._recipe.action_noise, direction.shape)
        return np.asarray(np.clip(direction + noise, -1.0, 1.0))

    def _find_subgoal(self, start: Cell, goal: Cell) -> np.ndarray:
        subgoal, _ = self._maze.get_oracle_subgoal(self._maze.ij_to_xy(start), self._maze.ij_to_xy(goal))
        return np.asarray(subgoal)


def _make_environment(recipe: PointMazeRecipe) -> Any:
    import gymnasium
    import ogbench.locomaze  # noqa: F401 (registers the environments)

    return gymnasium.make(
        recipe.environment, terminate_at_goal=False, max_episode_steps=recipe.episode_rows, disable_env_checker=True
    )


def _is_corridor(free: np.ndarray, cell: Cell) -> bool:
    """Return whether a cell is open on two opposite sides and walled on the others (the outer ring is always wall)."""
    i, j = cell
    vertical, horizontal = (free[i - 1, j], free[i + 1, j]), (free[i, j - 1], free[i, j + 1])
    return (all(vertical) and not any(horizontal)) or (all(horizontal) and not any(vertical))


def _choose(generator: np.random.Generator, cells: list[Cell]) -> Cell:
    return cells[generator.integers(len(cells))]
