import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from nfkern.algorithms.envs.mazes import MAZES, layout, make_maze

# Gives an environment that is shared by tests: textures make a point maze costly to build.
Make = Callable[..., gymnasium.Env[Any, Any]]
DIRECTIONS = {(0, 1): (1.0, 0.0), (0, -1): (-1.0, 0.0), (1, 0): (0.0, -1.0), (-1, 0): (0.0, 1.0)}


@pytest.fixture(scope="module")
def make() -> Make:
    made: dict[Any, gymnasium.Env[Any, Any]] = {}

    def make(name: str, number: int = 0, **options: Any) -> gymnasium.Env[Any, Any]:
        key = (name, number, *options.items())
        if key not in made:
            made[key] = make_maze(name, **options)
        return made[key]

    return make


def place(env: gymnasium.Env[Any, Any], x: float, y: float) -> None:
    """Put the agent somewhere, upright and at rest."""
    inner: Any = env.unwrapped
    robot = inner.point_env if hasattr(inner, "point_env") else inner.ant_env
    robot.set_state(np.array([x, y, *robot.init_qpos[2:]]), np.zeros_like(robot.init_qvel))


def still(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    assert env.action_space.shape is not None
    return np.zeros(env.action_space.shape, dtype=np.float32)


def episode(env: gymnasium.Env[Any, Any], seed: int | None, steps: int = 20) -> np.ndarray:
    """Goal and observations of an episode of random, but fixed, actions."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *still(env).shape))
    first, _ = env.reset(seed=seed)
    rows = [first["desired_goal"], first["observation"], *(env.step(action)[0]["observation"] for action in actions)]
    return np.concatenate(rows)


@pytest.mark.parametrize("name", MAZES)
def test_the_simulator_has_its_walls_where_the_layout_has_them(make: Make, name: str) -> None:
    maze, env = layout(name), make(name)
    model = env.unwrapped.model  # type: ignore[attr-defined]
    blocks = [model.geom(i) for i in range(model.ngeom) if model.geom(i).name.startswith("block_")]
    cells = maze.cells(np.array([block.pos[:2] for block in blocks]))
    assert sorted(map(tuple, cells.tolist())) == [tuple(cell) for cell in np.argwhere(maze.walls).tolist()]
    for block, cell in zip(blocks, cells, strict=True):
        np.testing.assert_allclose(block.pos[:2], maze.center(*cell))
        np.testing.assert_allclose(block.size[:2], maze.cell_size / 2)
    env.reset(seed=0)
    for cell in (maze.start, maze.hard_goals[0], maze.goals[-1]):
        place(env, *maze.center(*cell))
        observation = env.step(still(env))[0]
        np.testing.assert_allclose(observation["observation"][:2], maze.center(*cell), atol=0.02 * maze.cell_size)
        assert tuple(maze.cells(observation["achieved_goal"])) == cell


@pytest.mark.parametrize("name", ["point-u-maze", "point-big-maze"])
def test_walls_stop_the_point_mass_and_nothing_else_does(make: Make, name: str) -> None:
    maze, env = layout(name), make(name)
    stopped = 0
    for row, column in maze.free:
        for (down, right), force in DIRECTIONS.items():
            env.reset(seed=0)
            place(env, *maze.center(row, column))
            wall = maze.walls[row + down, column + right]
            stopped += wall
            visited = [
                tuple(maze.cells(env.step(np.array(force))[0]["achieved_goal"])) for _ in range(150 if wall else 40)
            ]
            if wall:
                assert set(visited) == {(row, column)}
            else:
                assert (row + down, column + right) in visited
    assert stopped


@pytest.mark.parametrize(("name", "size", "actions"), [("point-big-maze", 4, 2), ("ant-big-maze", 29, 8)])
def test_observations_are_the_whole_state(make: Make, name: str, size: int, actions: int) -> None:
    env = make(name)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
    observation, info = env.reset(seed=3)
    assert info == {"success": False}
    data = env.unwrapped.data  # type: ignore[attr-defined]
    positions = []
    for step in range(30):
        assert {key: value.shape for key, value in observation.items()} == {
            "observation": (size,),
            "achieved_goal": (2,),
            "desired_goal": (2,),
        }
        assert observation in env.observation_space
        assert all(value.dtype == np.float32 for value in observation.values())
        state = np.concatenate([data.qpos, data.qvel]).astype(np.float32)
        np.testing.assert_array_equal(observation["observation"], state)
        np.testing.assert_array_equal(observation["achieved_goal"], state[:2])
        positions.append(observation["observation"])
        observation, reward, terminated, truncated, info = env.step(np.sin(step + np.arange(actions)))
        assert (type(reward), terminated, truncated, info) == (float, False, False, {"success": False})
    # Each is an array of its own, not the simulator's memory.
    assert len({row.tobytes() for row in positions}) == 30
    if size == 29:
        assert data.qpos.size == 15
        assert np.linalg.norm(observation["observation"][3:7]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", ["point-u-maze", "ant-u-maze"])
def test_gymnasiums_checker_is_content(make: Make, name: str) -> None:
    with warnings.catch_warnings():
        # Of unbounded observations, and of a missing id.
        warnings.filterwarnings("ignore", category=UserWarning)
        check_env(make(name), skip_render_check=True)


def test_reset_and_step_in_order() -> None:
    env = make_maze("ant-u-maze")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(still(env))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected finite numbers, got .*nan"):
        env.step(still(env) * np.nan)


@pytest.mark.parametrize("name", ["point-big-maze", "ant-big-maze"])
def test_an_episode_follows_from_its_seed_whatever_ran_before(make: Make, name: str) -> None:
    used, fresh = make(name), make(name, 1)
    np.random.seed(0)  # noqa: NPY002
    first = episode(used, seed=5)
    second = episode(used, seed=None)
    other = episode(used, seed=6)
    np.random.seed(1)  # noqa: NPY002
    expected = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    np.testing.assert_array_equal(episode(used, seed=5), first)
    np.testing.assert_array_equal(episode(used, seed=None), second)
    np.testing.assert_array_equal(episode(fresh, seed=5), first)
    np.testing.assert_array_equal(np.random.get_state()[1], expected)  # type: ignore[index]  # noqa: NPY002
    for different in (second, other):
        assert (different[2:4] != first[2:4]).any(), "the start"
    assert len({episode(used, seed=seed, steps=0)[:2].tobytes() for seed in range(8)}) > 1, "the goal"


def test_interleaved_environments_do_not_disturb_each_other(make: Make) -> None:
    envs = [make("ant-big-maze"), make("ant-big-maze", 1), make("point-big-maze")]
    alone = [episode(env, seed) for seed, env in enumerate(envs)]
    actions = [np.random.default_rng(0).uniform(-1, 1, (20, *still(env).shape)) for env in envs]
    paths = [
        [first["desired_goal"], first["observation"]] for first in (e.reset(seed=i)[0] for i, e in enumerate(envs))
    ]
    for step in range(20):
        for env, path, action in zip(envs, paths, actions, strict=True):
            path.append(env.step(action[step])[0]["observation"])
    for path, expected in zip(paths, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(path), expected)


@pytest.mark.parametrize("name", ["point-u-maze", "ant-u-maze"])
def test_starts_are_near_the_centre_and_goals_at_it(make: Make, name: str) -> None:
    maze, env = layout(name), make(name)
    firsts = [env.reset(seed=seed)[0] for seed in range(60)]
    shifts = np.array([first["achieved_goal"] for first in firsts]) - maze.center(*maze.start)
    assert (np.abs(shifts).max(axis=0) <= 0.025 * maze.cell_size + 1e-6).all()
    assert (shifts.std(axis=0) > 0.01 * maze.cell_size).all()
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.5
    drawn = {tuple(first["desired_goal"].tolist()) for first in firsts}
    assert drawn == {maze.center(*cell) for cell in maze.goals}
    assert not any(first["observation"][len(first["observation"]) // 2 + 1 :].any() for first in firsts), "speeds"


@pytest.mark.parametrize("name", ["ant-u-maze", "ant-big-maze", "point-hardest-maze"])
def test_hard_goals(make: Make, name: str) -> None:
    maze, env = layout(name), make(name, goals="hard")
    drawn = {tuple(env.reset(seed=seed)[0]["desired_goal"].tolist()) for seed in range(50)}
    assert drawn == {maze.center(*cell) for cell in maze.hard_goals}


@pytest.mark.parametrize("name", ["point-u-maze", "ant-u-maze"])
def test_success_within_the_tolerance_and_the_goal_stays(make: Make, name: str) -> None:
    maze, env = layout(name), make(name)
    first, info = env.reset(seed=1, options={"goal_cell": (3, 2)})
    goal = first["desired_goal"]
    np.testing.assert_array_equal(goal, maze.center(3, 2))
    assert info["success"] is False
    # Nearly at rest the ant moves by millimetres while it drops to the floor.
    for fraction, expected in ((0.93, True), (1.07, False), (0.0, True), (0.0, True), (3.0, False), (0.5, True)):
        for direction in ([1.0, 0.0], [-0.6, 0.8]):
            place(env, *(goal + np.array(direction) * fraction * maze.tolerance))
            observation, reward, terminated, truncated, info = env.step(still(env))
            assert info["success"] is expected
            assert (reward, terminated, truncated) == (float(expected), False, False)
            distance = np.linalg.norm(observation["achieved_goal"] - observation["desired_goal"])
            assert expected == (distance < maze.tolerance)
            np.testing.assert_array_equal(observation["desired_goal"], goal)
            drawn = env.unwrapped.model.site("target").pos  # type: ignore[attr-defined]
            np.testing.assert_array_equal(drawn[:2], goal, "the mark that renderings show")
    assert env.reset(options={"goal_cell": maze.start})[1] == {"success": True}


def test_episodes_end_by_truncation_alone_even_on_the_back() -> None:
    env = make_maze("ant-u-maze", max_episode_steps=40)
    for seed in range(2):
        env.reset(seed=seed)
        robot = env.unwrapped.ant_env  # type: ignore[attr-defined]
        fallen = robot.init_qpos.copy()
        fallen[2:7] = [0.3, 0.0, 1.0, 0.0, 0.0]
        robot.set_state(fallen, robot.init_qvel)
        unhealthy = 0
        for step in range(1, 41):
            _, _, terminated, truncated, _ = env.step(still(env))
            assert (type(terminated), type(truncated)) == (bool, bool)
            assert (terminated, truncated) == (False, step == 40)
            unhealthy += not robot.is_healthy
            if step == 20:
                # Now as high in the air as no healthy ant is.
                fallen[2] = 1.5
                robot.set_state(fallen, robot.init_qvel)
        assert unhealthy, "the ant never was in a state that would end its usual episodes"


def test_a_long_episode_ends_after_a_thousand_steps(make: Make) -> None:
    env = make("point-u-maze")
    env.reset(seed=0)
    ends = [env.step(still(env))[2:4] for _ in range(1000)]
    assert not any(terminated for terminated, _ in ends)
    assert [truncated for _, truncated in ends] == [False] * 999 + [True]
