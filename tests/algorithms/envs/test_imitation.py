"""The imitation tasks: reproducible, demonstrated in several ways, and scored as the published tables count."""

import importlib.util

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from nfkern.algorithms.data.generation.generate import GenerationPlan, make_collector
from nfkern.algorithms.data.generation.seeding import episode_seed
from nfkern.algorithms.data.recipes import RECIPES, find_recipe
from nfkern.algorithms.envs import imitation
from nfkern.algorithms.envs.imitation import block_push, drawing, kitchen, point_mass, push_t
from nfkern.algorithms.envs.make import make_environment
from nfkern.algorithms.evaluation.evaluate import evaluate
from nfkern.algorithms.evaluation.video import _Film
from nfkern.errors import UserError

SCRIPTED = [name for name, task in imitation.TASKS.items() if task.expert]


def demonstrate(name: str, seed: int, noise: float = 0.0) -> tuple[np.ndarray, dict[str, object]]:
    """Observations of an episode of the expert, and the last info."""
    env, expert, generator = make_environment(name), imitation.make_expert(name), np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    expert.begin(generator)
    rows = [observation]
    while True:
        action = expert.act(observation)
        assert action.shape == (2,)
        observation, _, terminated, truncated, info = env.step(action + generator.normal(0, noise, 2))
        rows.append(observation)
        if terminated or truncated:
            return np.stack(rows), info


@pytest.mark.parametrize("name", imitation.TASKS)
def test_an_environment_keeps_gymnasiums_rules_and_its_seed(name: str) -> None:
    env = make_environment(name)
    if name in SCRIPTED:
        check_env(env.unwrapped, skip_render_check=True)
    runs = []
    for _ in range(2):
        observation, info = env.reset(seed=3)
        rows, generator = [observation], np.random.default_rng(0)
        assert observation.dtype == np.float32
        assert observation in env.observation_space
        for _ in range(30):
            low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
            observation, *_, info = env.step(generator.uniform(low, high).astype(np.float32))
            rows.append(observation)
        assert isinstance(info["success"], bool)
        assert 0 <= info["score"] <= 1
        runs.append(np.stack(rows))
    np.testing.assert_array_equal(*runs)
    assert (env.reset(seed=4)[0] != runs[0][0]).any()


@pytest.mark.parametrize("name", SCRIPTED)
def test_experts_succeed_with_the_noise_of_the_data(name: str) -> None:
    for seed in range(10):
        rows, info = demonstrate(name, seed, noise=0.2)
        assert info["success"], seed
        assert info["score"] == 1.0
        assert len(rows) < imitation.TASKS[name].max_episode_steps


def test_the_point_mass_is_shown_every_way_past_the_pillars() -> None:
    ways = set()
    for seed in range(40):
        path, _ = demonstrate("pointmass-v0", seed)
        ways.add(tuple(path[np.abs(path[:, 0] - pillar[0]).argmin(), 1] > 0 for pillar in point_mass.PILLARS))
    assert len(ways) == 2 ** len(point_mass.PILLARS)


def test_the_average_way_runs_into_a_pillar() -> None:
    env = make_environment("pointmass-v0")
    env.reset(seed=0)
    for _ in range(100):
        _, _, terminated, truncated, info = env.step(np.array([1.0, 0.0]))
        if terminated or truncated:
            break
    assert terminated
    assert not info["success"]
    assert info["score"] == 0.0


def test_blocks_are_pushed_in_either_order_and_counted() -> None:
    env = make_environment("blockpush-v0")
    first = set()
    for seed in range(12):
        rows, _ = demonstrate("blockpush-v0", seed)
        away = [np.linalg.norm(rows[:, at] - rows[0, at], axis=1) > 0.2 for at in (slice(2, 4), slice(4, 6))]
        first.add(away[0].argmax() < away[1].argmax())
    assert first == {True, False}
    observation, info = env.reset(seed=0)
    assert info["score"] == 0.0
    expert = imitation.make_expert("blockpush-v0")
    expert.begin(np.random.default_rng(0))
    scores, rewards = [0.0], []
    while scores[-1] < 1:
        observation, reward, _, _, info = env.step(expert.act(observation))
        rewards.append(reward)
        arrived = np.linalg.norm(observation.reshape(3, 2)[1:] - block_push.GOALS, axis=1) < block_push.GOAL_RADIUS
        assert info["score"] == arrived.mean()
        scores.append(info["score"])
    assert set(scores) == {0.0, 0.5, 1.0}
    assert sum(rewards) == 1.0


def test_nothing_moves_a_block_but_a_push() -> None:
    env = make_environment("blockpush-v0")
    start, _ = env.reset(seed=0)
    for _ in range(20):
        observation, *_ = env.step(np.array([0.0, -1.0]))
    np.testing.assert_array_equal(observation[2:], start[2:])
    assert observation[1] == -1.0, "the effector stays on the table"


def test_pusht_keypoints_of_states_are_the_simulators() -> None:
    env = make_environment("pusht-v0")
    env.reset(seed=1)
    generator = np.random.default_rng(0)
    states, observations = [], []
    for _ in range(60):
        observation, *_, info = env.step(generator.uniform(0, 512, 2))
        states.append([*info["pos_agent"], *info["block_pose"]])
        observations.append(observation)
        assert info["score"] == pytest.approx(info["coverage"])
    assert np.ptp(np.array(states)[:, 4]) > 0.1, "the block never turns: the test shows little"
    np.testing.assert_allclose(push_t.keypoint_observations(np.array(states)), observations, atol=1e-3)


def test_the_kitchen_counts_four_chores_of_seven() -> None:
    env = make_environment("kitchen-v0")
    env.reset(seed=0)
    simulation = env.unwrapped
    for number, (chore, goal) in enumerate(kitchen.kitchen_env.OBS_ELEMENT_GOALS.items(), start=1):
        simulation.data.qpos[kitchen.kitchen_env.OBS_ELEMENT_INDICES[chore]] = goal  # type: ignore[attr-defined]
        observation, _, terminated, _, info = env.step(np.zeros(9))
        assert info["score"] == min(1.0, number / 4), chore
        assert terminated == info["success"] == (number >= 4)
        np.testing.assert_allclose(observation[9:], simulation.data.qpos[9:], atol=0.05)  # type: ignore[attr-defined]
    assert env.reset(seed=0)[1]["score"] == 0.0


def test_demonstrations_follow_from_their_seed_and_end_where_they_succeed() -> None:
    collector = make_collector(find_recipe("blockpush-scripted-v0"))
    episode = collector.collect(episode_seed(0, "train", 1))
    again = make_collector(find_recipe("blockpush-scripted-v0"))
    again.collect(episode_seed(0, "train", 0))
    for key, column in again.collect(episode_seed(0, "train", 1)).items():
        np.testing.assert_array_equal(column, episode[key])
    assert episode["terminals"].tolist() == [False] * (len(episode["terminals"]) - 1) + [True]
    last = episode["observations"][-1].reshape(3, 2)[1:]
    assert (np.linalg.norm(last - block_push.GOALS, axis=1) < block_push.GOAL_RADIUS).all()
    assert len(episode["observations"]) == len(episode["actions"])
    assert np.abs(episode["actions"]).max() <= 1


def test_names_of_data_and_environments() -> None:
    for environment, task in imitation.TASKS.items():
        stem, _, version = environment.rpartition("-")
        data = f"{stem}-{task.demonstrations}-{version}"
        assert imitation.environment_id(environment) == imitation.environment_id(data) == f"nfkern/{environment}"
        assert (data in RECIPES) == (task.expert is not None)
    assert imitation.environment_id("pointmaze-medium-v0") is None
    with pytest.raises(UserError, match="did you mean pusht-human-v0"):
        make_environment("pusht-humans-v0")
    with pytest.raises(UserError, match="nfkern data import"):
        find_recipe("kitchen-human-v0")
    with pytest.raises(ValueError, match="no scripted demonstrator"):
        imitation.make_expert("kitchen-v0")
    plan = GenerationPlan.from_transitions(find_recipe("pointmass-scripted-v0"), 460)
    assert plan.train_episodes == 10
    assert plan.versions.keys() == {"nfkern", "gymnasium", "numpy"}


def test_pictures_have_everything_in_its_place() -> None:
    picture = drawing.discs(
        200, [(np.array([0.5, 0.5]), 0.2, drawing.GOAL), (np.array([0.5, 0.5]), 0.1, drawing.AGENT)]
    )
    assert picture.shape == (200, 200, 3)
    assert picture[50, 150].tolist() == [*drawing.AGENT], "up and to the right"
    assert picture[50, 135].tolist() == [*drawing.GOAL]
    assert picture[150, 50].tolist() == [*drawing.TABLE]
    covered = (picture.astype(float) - drawing.TABLE)[..., 2] / (drawing.GOAL[2] - drawing.TABLE[2])
    ring = covered[(picture != drawing.AGENT).any(-1)].clip(0, 1).sum()
    assert ring * 1e-4 == pytest.approx(np.pi * (0.2**2 - 0.1**2), rel=0.05)


@pytest.mark.parametrize("name", ["pointmass-v0", "blockpush-v0", "pusht-v0"])
def test_films_of_planar_tasks_show_what_moves(name: str) -> None:
    env, film = make_environment(name), _Film(0, 64, every=2)
    observation, _ = env.reset(seed=0)
    film.observe(0, env, observation)
    for _ in range(6):
        observation, *_ = env.step(env.action_space.high)  # type: ignore[attr-defined]
        film.observe(0, env, observation)
        film.observe(1, env, observation)
    frames = film.finish()
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * 5
    assert (frames[0] != frames[2]).any()


class _Forward:
    history, chunk, execute, goal_conditioned = 1, 1, 1, False

    def act(self, observations: np.ndarray, goals: None = None, generator: object = None) -> np.ndarray:
        return np.tile(np.array([1.0, 0.5], dtype=np.float32), (len(observations), 1, 1))


def test_evaluations_keep_the_score() -> None:
    result = evaluate(_Forward(), "pointmass-scripted-v0", episodes_per_task=4, progress=False)
    assert result.success_rate == 0.0
    scores = [episode.score for episode in result.episodes]
    assert result.score == np.mean(scores)
    assert result.score == pytest.approx(2 / 3)
    assert result.from_dict(result.to_dict()) == result
    assert result.to_dict()["score"] == result.score
    assert set(result.settings.versions) == {"torch", "numpy", "gymnasium", "nfkern"}
    assert result.by_task()[0].mean_score == result.score


def test_a_missing_simulator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gym_pusht.envs.pusht", None)
    monkeypatch.delitem(__import__("sys").modules, "nfkern.algorithms.envs.imitation.push_t")
    with pytest.raises(UserError, match=r"pusht-v0 needs gym_pusht.*: pip install 'gym-pusht"):
        make_environment("pusht-v0")


def test_gymnasium_knows_the_limits() -> None:
    for _ in range(2):
        found = imitation.environment_id("pusht-human-v0")
        assert found is not None
        assert gymnasium.spec(found).max_episode_steps == 300


def test_meta_world_is_named_without_its_package() -> None:
    for name in ("metaworld-door-open-v0", "metaworld-door-open-scripted-v0"):
        assert imitation.find(name) == "metaworld-door-open-v0"
    assert imitation.packages("metaworld-door-open-v0") == ("metaworld", "mujoco")
    recipe = find_recipe("metaworld-door-open-scripted-v0")
    assert recipe.packages == ("metaworld", "mujoco", "gymnasium", "numpy")
    if importlib.util.find_spec("metaworld") is None:
        with pytest.raises(UserError, match=r"needs metaworld: pip install 'metaworld>="):
            make_environment("metaworld-door-open-v0")


@pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs metaworld, whose MuJoCo is another")
@pytest.mark.parametrize("task", ["door-open", "reach", "button-press-topdown"])
def test_meta_worlds_policies_demonstrate(task: str) -> None:
    recipe = find_recipe(f"metaworld-{task}-scripted-v0")
    episodes = [make_collector(recipe).collect(episode_seed(0, "train", number)) for number in (0, 0, 1)]
    np.testing.assert_array_equal(episodes[0]["observations"], episodes[1]["observations"])
    assert (episodes[0]["observations"][0] != episodes[2]["observations"][0]).any()
    assert episodes[0]["observations"].shape[1:] == (39,)
    env = make_environment(f"metaworld-{task}-v0")
    first, _ = env.reset(seed=5)
    np.testing.assert_array_equal(env.reset(seed=5)[0], first)
    with pytest.raises(UserError, match=r"no task 'dor-open': it has .*door-open"):
        make_environment("metaworld-dor-open-v0")
