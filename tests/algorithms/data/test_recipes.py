"""The table of recipes against the published datasets' sizes."""

import pytest

from nfkern.algorithms.data.generation.generate import GenerationPlan
from nfkern.algorithms.data.recipes import RECIPES, data_name, find_recipe
from nfkern.errors import UserError


@pytest.mark.parametrize(
    ("name", "transitions", "val_episodes"),
    [
        ("pointmaze-medium-navigate-v0", 1_000_000, 100),
        ("pointmaze-giant-navigate-v0", 1_000_000, 50),
        ("pointmaze-teleport-stitch-v0", 1_000_000, 500),
        ("cube-single-play-v0", 1_000_000, 100),
        ("cube-triple-noisy-v0", 3_000_000, 300),
        ("scene-play-v0", 1_000_000, 100),
        ("puzzle-4x6-play-v0", 5_000_000, 500),
    ],
)
def test_default_is_the_published_size(name, transitions, val_episodes):
    plan = GenerationPlan.from_transitions(RECIPES[name])
    assert plan.train_transitions == transitions
    assert plan.val_episodes == val_episodes


def test_every_promised_name_has_a_recipe():
    mazes = {f"pointmaze-{m}-{c}-v0" for m in ("medium", "large", "giant", "teleport") for c in ("navigate", "stitch")}
    scenes = ["cube-single", "cube-double", "cube-triple", "scene", "puzzle-3x3", "puzzle-4x4"]
    assert mazes | {f"{scene}-{c}-v0" for scene in scenes for c in ("play", "noisy")} <= set(RECIPES)


def test_only_noisy_data_have_random_actions():
    assert RECIPES["cube-single-play-v0"].random_action_probability == 0
    assert RECIPES["cube-single-noisy-v0"].random_action_probability == 0.1
    assert RECIPES["puzzle-3x3-noisy-v0"].random_action_probability == 0.2


@pytest.mark.parametrize(("transitions", "train", "val"), [(1, 1, 1), (1000, 1, 1), (1001, 2, 1), (100_000, 100, 10)])
def test_transitions_round_up_to_whole_episodes_and_validation_is_never_empty(transitions, train, val):
    plan = GenerationPlan.from_transitions(RECIPES["pointmaze-medium-navigate-v0"], transitions)
    assert (plan.train_episodes, plan.val_episodes) == (train, val)


@pytest.mark.parametrize(
    ("arguments", "named"), [((0, 1, 0), "train_episodes"), ((1, 0, 0), "val_episodes"), ((1, 1, -1), "seed")]
)
def test_bad_plans_name_the_argument(arguments, named):
    with pytest.raises(ValueError, match=named):
        GenerationPlan(RECIPES["pointmaze-medium-navigate-v0"], *arguments)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("antmaze-medium-navigate-v0", "trained policies"),
        ("visual-cube-single-play-v0", "image"),
        ("cube-single-pla-v0", "cube-single-play-v0"),
        ("nonsense", "--help"),
    ],
)
def test_names_without_recipe_say_why(name, says):
    with pytest.raises(UserError, match=says):
        find_recipe(name)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cube-single-play-v0", "cube-single-play-v0"),
        ("cube-single-play-singletask-v0", "cube-single-play-v0"),
        ("pointmaze-medium-navigate-singletask-task3-v0", "pointmaze-medium-navigate-v0"),
        ("scene-play-oraclerep-v0", "scene-play-v0"),
    ],
)
def test_variants_share_one_file(name, file):
    assert data_name(name) == file
