import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import ogbench
import pytest
from support.boxes import FollowInParts, register
from support.selected import exhaustive

from nfkern.algorithms.envs.make import PinnedTask, environment_id, make_environment
from nfkern.algorithms.evaluation.rollout import EnvironmentPool
from nfkern.errors import UserError

EASY = ["pointmaze-medium-v0", "pointmaze-teleport-v0"]
COSTLY = ["cube-double-v0", "puzzle-3x3-v0", "antsoccer-arena-v0", "humanoidmaze-medium-v0"]
ANY = [
    *EASY,
    pytest.param("scene-v0", marks=pytest.mark.slow),
    *(exhaustive(name, part="data") for name in COSTLY),
]


def episode(env: PinnedTask, seed: int, steps: int = 60) -> np.ndarray:
    """Goal and observations of an episode of random, but fixed, actions."""
    rng = np.random.default_rng(0)
    observation, _ = env.reset(seed=seed)
    assert env.goal is not None
    rows = [env.goal, observation]
    for _ in range(steps):
        observation, _, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape))
        rows.append(observation)
        if terminated or truncated:
            break
    return np.concatenate(rows)


@pytest.mark.parametrize("name", ANY)
def test_an_episode_follows_from_its_seed_whatever_ran_before(name: str) -> None:
    used, fresh = make_environment(name, task_id=1), make_environment(name, task_id=1)
    first = episode(used, seed=5)
    used.task_id = used.tasks[-1]
    other = episode(used, seed=6)
    used.task_id = 1
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(episode(used, seed=5), first)
    np.testing.assert_array_equal(episode(fresh, seed=5), first)
    assert other.shape != first.shape or (other != first).any()


@pytest.mark.slow
def test_manipulation_goals_follow_from_the_seed() -> None:
    env = make_environment("cube-single-play-v0")
    assert env.action_space is env.action_space
    goals = [env.reset(seed=seed)[1]["goal"] for seed in (3, 4, 3)]
    np.testing.assert_array_equal(goals[0], goals[2])
    assert (goals[0] != goals[1]).any()


def test_interleaved_environments_do_not_disturb_each_other() -> None:
    # In the teleport maze stepping draws random numbers too: this policy walks into the portal.
    envs = [make_environment("pointmaze-teleport-v0", task_id=3) for _ in range(3)]
    portal = np.array(envs[0].unwrapped._teleport_info["teleport_in_xys"])  # type: ignore[attr-defined]

    def walk(chosen: list[PinnedTask], seeds: list[int]) -> list[np.ndarray]:
        observations = [env.reset(seed=seed)[0] for env, seed in zip(chosen, seeds, strict=True)]
        paths = [[observation] for observation in observations]
        for _ in range(80):
            for env, path in zip(chosen, paths, strict=True):
                nearest = portal[np.argmin(np.linalg.norm(portal - path[-1], axis=1))]
                path.append(env.step(np.clip(nearest - path[-1], -1, 1))[0])
        return [np.stack(path) for path in paths]

    together = walk(envs, [1, 2, 3])
    alone = [walk([env], [seed])[0] for env, seed in zip(envs, [1, 2, 3], strict=True)]
    np.testing.assert_array_equal(together, alone)
    jumps = [np.linalg.norm(np.diff(path, axis=0), axis=1).max() for path in together]
    assert max(jumps) > 4, "no teleport happened: the test shows nothing"


def test_numpys_global_generator_is_left_alone() -> None:
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    env = make_environment("pointmaze-medium-v0")
    env.reset(seed=0)
    env.step(np.zeros(2))
    env.reset()
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_the_task_stays_pinned() -> None:
    env = make_environment("pointmaze-medium-navigate-v0", task_id=4)
    for seed in range(5):
        env.reset(seed=seed)
        env.reset()
        assert env.unwrapped.cur_task_id == 4  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="pinned to 4, got task_id 2"):
        env.reset(options={"task_id": 2})
    with pytest.raises(ValueError, match=r"pointmaze-medium-v0 has the tasks 1, 2, 3, 4, 5, got 6"):
        env.task_id = 6


def test_single_task_environments_have_their_own_task() -> None:
    env = make_environment("pointmaze-medium-navigate-singletask-task3-v0")
    assert env.tasks == (3,)
    assert env.task_names == {3: "task3"}
    assert env.task_id == 3
    env.reset(seed=0)
    assert env.unwrapped.cur_task_id == 3  # type: ignore[attr-defined]
    assert env.step(np.zeros(2))[1] == -1.0
    with pytest.raises(ValueError, match="tasks 3, got 1"):
        make_environment("pointmaze-medium-navigate-singletask-task3-v0", task_id=1)


def test_flags_are_plain_booleans() -> None:
    env = make_environment("scene-play-v0", max_episode_steps=2)
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(np.zeros(5))
    assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert not truncated
    assert env.step(np.zeros(5))[3]


@pytest.mark.parametrize(
    "name",
    [
        "pointmaze-medium-navigate-v0",
        "pointmaze-giant-stitch-v0",
        "antmaze-medium-explore-v0",
        "pointmaze-large-navigate-singletask-v0",
        "pointmaze-large-navigate-singletask-task5-v0",
        "antmaze-medium-navigate-oraclerep-v0",
    ],
)
def test_names_mean_what_ogbench_means(name: str) -> None:
    theirs = ogbench.make_env_and_datasets(name, env_only=True)
    assert environment_id(name) == theirs.spec.id
    env = make_environment(name)
    goal = theirs.reset()[1]["goal"]
    env.reset(seed=0)
    assert env.goal is not None
    assert env.goal.shape == goal.shape
    assert env.goal.dtype == np.float32
    assert environment_id(theirs.spec.id) == theirs.spec.id


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("pointmaze-medum-navigate-v0", "pointmaze-medium-navigate-v0"),
        ("cube-singel-play-v0", "cube-single-play-v0"),
        ("pointmaze-medium-play-v0", "pointmaze-medium-v0"),
        ("cube-single-play-singletask-task9-v0", "cube-single-play-singletask-task5-v0"),
        ("v0", "expected a name such as"),
    ],
)
def test_unknown_names_suggest_known_ones(name: str, suggestion: str) -> None:
    with pytest.raises(UserError, match=name) as error:
        make_environment(name)
    assert suggestion in str(error.value)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="descriptors cannot be listed here")
def test_mazes_leave_no_files_behind() -> None:
    make_environment("pointmaze-medium-v0")
    before = set(os.listdir("/dev/fd")), set(Path(tempfile.gettempdir()).glob("*.xml"))
    for _ in range(3):
        make_environment("pointmaze-medium-v0")
    assert len(os.listdir("/dev/fd")) == len(before[0])
    assert set(Path(tempfile.gettempdir()).glob("*.xml")) <= before[1]


@pytest.mark.slow
def test_importing_chooses_no_renderer() -> None:
    code = (
        "import os, sys, nfkern.algorithms.envs.make\n"
        "import nfkern.algorithms.evaluation.evaluate, nfkern.algorithms.evaluation.video\n"
        "assert 'MUJOCO_GL' not in os.environ and 'mujoco' not in sys.modules"
    )
    clean = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    subprocess.run([sys.executable, "-c", code], env=clean, check=True)


def test_success_is_judged_before_or_after_the_action():
    name = "pointmaze-medium-navigate-singletask-task1-v0"
    ends = {}
    for timing in ("pre", "post", None):
        env = make_environment(name, success_timing=timing)
        env.reset(seed=0)
        # Just short of the goal, with an action that leads into it.
        base = env.unwrapped
        base.set_xy(np.array(base.cur_goal_xy) - [base._goal_tol + 0.01, 0.0])
        ends[timing] = [env.step(np.array([1.0, 0.0]))[2] for _ in range(2)]
        env.close()
    assert ends == {"pre": [False, True], "post": [True, True], None: [False, True]}


class Warns(gymnasium.Env):
    """Warns when it is made; its actions are whole numbers where it is told so."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, kind="float32"):
        warnings.warn("made", UserWarning, stacklevel=1)
        self.action_space = gymnasium.spaces.Box(0, 3, (1,), kind)


def pool(kind, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Warns-v0", entry_point=Warns, kwargs={"kind": kind})
    monkeypatch.setitem(gymnasium.registry, "Warns-v0", spec)
    return EnvironmentPool("Warns-v0")


def test_a_pool_shows_an_environments_warnings_once(monkeypatch):
    with pytest.warns(UserWarning, match="made") as caught:
        pool("float32", monkeypatch).take(3)
    assert len(caught) == 1


def test_boxes_of_whole_numbers_are_refused(monkeypatch):
    with pytest.warns(UserWarning, match="made"), pytest.raises(ValueError, match="only boxes of floats"):
        pool("int64", monkeypatch)


def test_parts_of_dict_observations_are_chosen_in_the_order_named():
    plain, name = make_environment(register("unit")), register("unit", FollowInParts)
    parts = make_environment(f"{name}[position,desired_goal]")
    turned = make_environment(f"{name}[desired_goal, position]")
    expected, _ = plain.reset(seed=5)
    (found, info), (other, _) = parts.reset(seed=5), turned.reset(seed=5)
    assert found.dtype == np.float32
    assert parts.observation_space.contains(found)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(other, expected[[2, 3, 0, 1]])
    np.testing.assert_array_equal(info["goal"], expected[2:])
    np.testing.assert_array_equal(parts.goal, expected[2:])
    action = np.array([0.3, -0.2], np.float32)
    np.testing.assert_array_equal(parts.step(action)[0], plain.step(action)[0])


@pytest.mark.parametrize("keys", ["", "[]", "[position,goal]"])
def test_dict_observations_need_names_of_their_parts(keys):
    name = register("unit", FollowInParts)
    wanted = rf"Dict of desired_goal \(2,\), position \(2,\): name those .*, as in {name}\[desired_goal,position\]"
    with pytest.raises(UserError, match=wanted):
        make_environment(f"{name}{keys}")


def test_other_observations_have_no_parts():
    with pytest.raises(UserError, match=r"observations are no Dict but Box.*: leave out \[position\]"):
        make_environment(f"{register('unit')}[position]")


def test_an_environment_that_cannot_be_made_is_one_line(monkeypatch):
    monkeypatch.setattr(FollowInParts, "__init__", lambda self, box: 1 / 0)
    with pytest.raises(UserError, match=r"cannot be made: ZeroDivisionError\('division by zero'\)"):
        make_environment(register("unit", FollowInParts))
