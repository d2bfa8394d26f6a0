import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from nfkern.algorithms.envs.mazes import layout, make_maze, make_vector_maze
from nfkern.algorithms.envs.quiet_imports import without_adroit_notice
from nfkern.errors import UserError


def test_vector_environments_start_over_in_the_next_step() -> None:
    vector = make_vector_maze("ant-big-maze", 3, max_episode_steps=4)
    assert vector.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP
    assert vector.action_space.shape == (3, 8)
    single = make_maze("ant-big-maze", max_episode_steps=4)
    observation, info = vector.reset(seed=7)
    assert observation in vector.observation_space
    assert {key: value.shape for key, value in observation.items()} == {
        "observation": (3, 29),
        "achieved_goal": (3, 2),
        "desired_goal": (3, 2),
    }
    expected, _ = single.reset(seed=8)
    rng = np.random.default_rng(0)
    for step in range(1, 11):
        actions = rng.uniform(-1, 1, (3, 8)).astype(np.float32)
        observation, rewards, terminated, truncated, info = vector.step(actions)
        starting = step % 5 == 0
        expected = single.reset()[0] if starting else single.step(actions[1])[0]
        for key, value in expected.items():
            assert observation[key].dtype == np.float32
            np.testing.assert_array_equal(observation[key][1], value)
        assert not terminated.any()
        assert truncated.tolist() == [step % 5 == 4] * 3
        assert rewards.tolist() == [0.0] * 3
        assert info["success"].tolist() == [False] * 3
        assert info["success"].dtype == np.bool_
    vector.close()


def test_vector_environments_pass_their_options_on() -> None:
    maze = layout("ant-u-maze")
    vector = make_vector_maze("ant-u-maze", 8, goals="hard")
    observation, _ = vector.reset(seed=0)
    np.testing.assert_array_equal(observation["desired_goal"], [maze.center(*maze.hard_goals[0])] * 8)
    vector.close()


def test_wrong_arguments_are_named() -> None:
    for function in (layout, make_maze, lambda name: make_vector_maze(name, 1)):
        with pytest.raises(UserError, match=r"unknown maze 'ant-maze': expected one of .*, ant-hardest-maze"):
            function("ant-maze")
    with pytest.raises(ValueError, match="goals: expected 'all' or 'hard', got 'easy'"):
        make_maze("ant-u-maze", goals="easy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_episode_steps: expected at least 1, got 0"):
        make_maze("ant-u-maze", max_episode_steps=0)
    with pytest.raises(ValueError, match="num_envs: expected at least 1, got 0"):
        make_vector_maze("ant-u-maze", 0)
    env = make_maze("ant-u-maze")
    for cell in ((0, 0), (2, 1), (9, 9), (-2, 1)):
        with pytest.raises(ValueError, match=r"expected a free cell .* got \("):
            env.reset(options={"goal_cell": cell})
    with pytest.raises(ValueError, match="expected goal_cell alone, got reset_cell"):
        env.reset(options={"reset_cell": (1, 1)})


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "gymnasium_robotics"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(UserError, match=r"ant-u-maze needs gymnasium_robotics.*pip install 'gymnasium-robotics>="):
        make_maze("ant-u-maze")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="descriptors cannot be listed here")
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_maze("ant-u-maze").close()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/dev/fd"))
    for name in ("ant-u-maze", "point-u-maze"):
        env = make_maze(name)
        env.reset(seed=0)
        env.close()
    assert len(os.listdir("/dev/fd")) == before
    assert not list(tmp_path.iterdir())


def test_the_terminal_stays_clean_and_the_extra_is_loaded_when_needed() -> None:
    code = (
        "import sys, nfkern.algorithms.envs.mazes as mazes;"
        "mazes.layout('ant-u-maze');"
        "assert not {'gymnasium_robotics', 'mujoco'} & set(sys.modules);"
        "print('before', file=sys.stderr); mazes.make_maze('ant-u-maze').reset(seed=0); print('after', file=sys.stderr)"
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=clean, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "before\nafter\n")


def test_other_news_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with without_adroit_notice():
        print("one", file=sys.stderr)
        print("AdroitHandDoorDense-v1 was changed", file=sys.stderr)
        print("two", file=sys.stderr)
    assert capsys.readouterr().err == "one\ntwo\n"
